"""What dies in a real RabbitMQ ends its job where everybody sees it, and can be looked at and sent once more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pika
import pytest
from dramatiq.common import xq_name

from cli import dlq
from config.catalogue import Catalogue
from config.settings import Settings
from gateway.database import jobs, migrate
from gateway.database.engine import Database
from gateway.database.lookup import Lookup
from gateway.ledger import Ledger
from gateway.metrics import Metrics
from gateway.news import News
from gateway.rescue import Rescue
from gateway.webhooks.announcer import Announcer
from pipeline import broker as broker_module
from pipeline import keys
from pipeline.broker import RabbitBroker, open_broker
from pipeline.dead_letters import DeadLetters
from pipeline.dispatch import first_message, send
from pipeline.jobs import Jobs
from pipeline.store.factory import open_store
from pipeline.vocabulary import JobRequest, Status
from tests.small_stages import job

QUEUE = "render.tiny"


class Scene:
    """A gateway's rescue on a real broker, a folder and SQLite."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        broker = open_broker(settings)
        assert isinstance(broker, RabbitBroker)
        self.broker = broker
        self.store = Jobs(open_store(settings))
        self.letters = DeadLetters(self.store.store)
        self.database = Database(settings.database_url)
        metrics = Metrics()
        ledger = Ledger(self.database, News(self.database), metrics, Announcer(settings))
        catalogue, wake = Catalogue.load(), asyncio.Event()
        self.rescue = Rescue(settings, catalogue, self.database, self.broker, self.store, ledger, metrics, wake)

    async def accept(self) -> JobRequest:
        request = job()
        self.store.accept(request)
        async with self.database.write() as connection:
            await jobs.add(connection, jobs.NewJob(request))
        await asyncio.to_thread(send, self.broker, first_message(request), request.model)
        return request

    async def status(self, request: JobRequest) -> tuple[Status, str | None]:
        found = await Lookup(self.database).find(request.job_id, request.user_id)
        assert found is not None
        return found.projection.status, found.projection.failure and found.projection.failure.code

    def waiting(self, queue: str) -> int:
        with pika.BlockingConnection(self.broker.parameters) as connection:
            return connection.channel().queue_declare(queue, passive=True).method.message_count

    def take_and_die(self) -> None:
        """A consumer that loses its connection over the message."""
        connection = pika.BlockingConnection(self.broker.parameters)
        method, _, _ = connection.channel().basic_get(QUEUE)
        assert method is not None
        connection.close()
        deadline = time.monotonic() + 20
        while not self.waiting(QUEUE) + self.waiting(xq_name(QUEUE)):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def let_die(self, count: int) -> None:
        """Move so many messages to where the broker puts those it gave up."""
        with pika.BlockingConnection(self.broker.parameters) as connection:
            channel = connection.channel()
            for _ in range(count):
                _, _, body = channel.basic_get(QUEUE, auto_ack=True)
                channel.basic_publish("", xq_name(QUEUE), body)


@pytest.fixture
async def scene(t2m_settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr(broker_module, "DELIVERY_LIMIT", 2)
    settings = t2m_settings("rabbitmq")
    settings = settings.model_copy(update={"broker": settings.broker.model_copy(update={"queue_type": "quorum"})})
    scene = Scene(settings)
    monkeypatch.setattr(dlq, "load", lambda: settings)
    await migrate.upgrade(scene.database)
    yield scene
    await scene.database.close()
    scene.broker.close()


async def test_a_message_over_the_delivery_limit_ends_its_job_and_its_replay_works_once(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    request = await scene.accept()
    for _ in range(3):
        await asyncio.to_thread(scene.take_and_die)
    assert await asyncio.to_thread(scene.waiting, xq_name(QUEUE)) == 1
    assert await scene.rescue.bury() == 1
    assert await scene.status(request) == (Status.FAILED, "DeadLettered")
    assert await scene.rescue.bury() == 0
    assert await asyncio.to_thread(scene.waiting, xq_name(QUEUE)) == 0

    (letter,) = scene.letters.all()
    assert (letter.queue, letter.reason) == (QUEUE, "delivery_limit")
    dlq.show_all()
    dlq.show(letter.id)
    shown = capsys.readouterr().out
    assert request.job_id in shown and "delivery_limit" in shown

    await asyncio.to_thread(dlq.requeue, letter.id)
    again = capsys.readouterr().out.split()[-1].rstrip(".")
    assert scene.store.request(again).prompt == request.prompt
    assert await scene.status(scene.store.request(again)) == (Status.PROCESSING, None)
    assert list(scene.letters.all()) == []


async def test_junk_is_kept_and_ends_nothing(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    request = await scene.accept()
    await asyncio.to_thread(scene.broker.declare_queue, QUEUE, ensure=True)
    scene.broker.channel.basic_publish("", xq_name(QUEUE), b"junk")
    assert await scene.rescue.bury() == 1
    (letter,) = scene.letters.all()
    assert letter.message is None
    dlq.drop(letter.id)
    assert list(scene.letters.all()) == []
    assert await scene.status(request) == (Status.PROCESSING, None)


async def test_a_verdict_of_a_newer_release_does_not_stop_the_others(scene: Scene) -> None:
    newer, job = [await scene.accept() for _ in range(2)]
    scene.store.store.create(keys.final(newer.job_id), b'{"version": 99}')
    await asyncio.to_thread(scene.let_die, 2)
    assert await scene.rescue.bury() == 2
    assert await scene.status(newer) == (Status.PROCESSING, None)
    assert await scene.status(job) == (Status.FAILED, "DeadLettered")
