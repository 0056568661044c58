"""Jobs whose workers fell silent are sent again, and not for ever; letters of the dead end their jobs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from config.catalogue import Catalogue
from config.settings import BrokerSettings, Settings
from gateway.database import jobs, migrate, workers
from gateway.database.engine import Database
from gateway.database.lookup import Lookup
from gateway.database.tables import jobs as table
from gateway.ledger import Ledger
from gateway.metrics import Metrics
from gateway.news import News
from gateway.outlook import Outlook
from gateway.rescue import MOST_EPOCHS, Rescue
from gateway.webhooks.announcer import Announcer
from pipeline import keys
from pipeline.dead_letters import DeadLetter, DeadLetters
from pipeline.errors import ObjectMissing
from pipeline.jobs import Jobs
from pipeline.store.local import FileStore
from pipeline.topology import all_queues
from pipeline.vocabulary import EventKind, Final, Stage, StageMessage, Status, now
from tests.unit.gateway.support import event
from tests.unit.gateway.test_dispatcher import Scene

CATALOGUE = Catalogue.load()
ALL = all_queues(["tiny"])


class Rescued:
    """A scene with a rescue on it, and jobs that were sent long ago."""

    def __init__(self, scene: Scene, store: Jobs) -> None:
        self.scene, self.store, self.wake = scene, store, asyncio.Event()
        self.metrics = metrics = Metrics()
        self.ledger = Ledger(scene.database, News(scene.database), metrics, Announcer(scene.settings))
        self.rescue = Rescue(
            scene.settings, CATALOGUE, scene.database, scene.broker, store, self.ledger, metrics, self.wake
        )
        self.lease = scene.settings.worker.lease

    async def sent(self, silent_leases: float, **values: object) -> str:
        """A job that was sent, and of which nothing was heard for so many leases."""
        job_id = await self.scene.accept("ada")
        at = now() - silent_leases * self.lease
        await self.scene.change(
            job_id, **{"epoch": 1, "claimed_at": at, "dispatched_at": at, "updated_at": at} | values
        )
        return job_id

    async def seen(self, job_id: str) -> tuple[str, int, int | None]:
        """Stage, progress and place in the queue, as its owner sees them."""
        job = await Lookup(self.scene.database).find(job_id, "ada")
        assert job is not None
        forecast = await Outlook(self.scene.settings, CATALOGUE, self.scene.database).of(job)
        return job.projection.activity, job.projection.percent, forecast.position

    async def row(self, job_id: str) -> object:
        async with self.scene.database.read() as connection:
            return (await connection.execute(select(table).where(table.c.id == job_id))).one()


@pytest.fixture
async def rescued(settings: Settings) -> AsyncIterator[Rescued]:
    """As with RabbitMQ: only heartbeats tell of workers."""
    database = Database(settings.database_url)
    await migrate.upgrade(database)
    remote = settings.model_copy(update={"broker": BrokerSettings(url=SecretStr("amqp://never-connected/"))})
    yield Rescued(Scene(remote, database), Jobs(FileStore(settings.data_dir / "store")))
    await database.close()


async def test_a_job_of_a_silent_worker_is_sent_again_one_epoch_later(rescued: Rescued) -> None:
    await rescued.scene.beat("all", queues=ALL)
    job_id = await rescued.sent(3.1)
    assert await rescued.rescue.send_again() == 1
    assert rescued.wake.is_set()
    assert "t2m_jobs_sent_again_total 1.0" in rescued.metrics.page().decode()
    assert await rescued.scene.dispatcher().dispatch() == 1
    (message,) = rescued.scene.broker.sent
    assert (message.job_id, message.epoch) == (job_id, 2)
    assert await rescued.rescue.send_again() == 0, "it has been sent just now"


async def test_one_that_was_heard_of_or_is_held_is_left_alone(rescued: Rescued) -> None:
    await rescued.sent(2.9)
    held = await rescued.sent(5)
    await rescued.sent(5, updated_at=now() - 2.9 * rescued.lease)
    await rescued.scene.beat("all", queues=ALL, job_ids=(held,))
    assert await rescued.rescue.send_again() == 0


async def test_a_worker_that_died_holds_nothing(rescued: Rescued) -> None:
    job_id = await rescued.sent(4)
    await rescued.scene.beat("dead", job_ids=(job_id,))
    async with rescued.scene.database.write() as connection:
        await connection.execute(workers.workers.update().values(seen_at=now() - timedelta(seconds=60)))
    await rescued.scene.beat("living", queues=ALL)
    assert await rescued.rescue.send_again() == 1


async def test_without_workers_a_job_just_waits(rescued: Rescued) -> None:
    await rescued.sent(100)
    await rescued.scene.beat("gpu")
    await rescued.scene.beat("leaving", queues=ALL, stopping=True)
    assert await rescued.rescue.send_again() == 0


async def test_a_job_is_not_sent_for_ever(rescued: Rescued) -> None:
    await rescued.scene.beat("all", queues=ALL)
    job_id = await rescued.sent(49, epoch=MOST_EPOCHS)
    assert await rescued.rescue.send_again() == 1
    final = rescued.store.final(job_id)
    assert final is not None and final.failure is not None and final.failure.code == "WorkerLost"
    row = await rescued.row(job_id)
    assert (row.status, row.failure["code"]) == (Status.FAILED, "WorkerLost")
    assert await rescued.scene.dispatcher().dispatch() == 0


async def test_a_verdict_of_a_newer_release_does_not_stop_the_others(rescued: Rescued) -> None:
    await rescued.scene.beat("all", queues=ALL)
    newer = await rescued.sent(50, epoch=MOST_EPOCHS)
    rescued.store.store.create(keys.final(newer), b'{"version": 99}')
    job_id = await rescued.sent(49, epoch=MOST_EPOCHS)
    assert await rescued.rescue.send_again() == 2
    assert (await rescued.row(newer)).status == Status.PROCESSING
    assert (await rescued.row(job_id)).status == Status.FAILED


@pytest.mark.parametrize(("stage", "progress"), [(Stage.RENDER, 35.0), (Stage.ENCODE, 75.0)])
async def test_a_job_that_is_sent_again_has_a_place_in_the_queue(
    rescued: Rescued, stage: Stage, progress: float
) -> None:
    """It waits for a renderer, though it knows how far it had come."""
    await rescued.scene.beat("all", queues=ALL)
    reached = {"stage": stage, "position": [1, 0, 0, 9], "progress": progress}
    job_id = await rescued.sent(3.1, **reached)
    await rescued.rescue.send_again()
    assert await rescued.seen(job_id) == ("queued", int(progress), 1)
    await rescued.scene.dispatcher().dispatch()
    assert await rescued.seen(job_id) == ("queued", int(progress), 1)
    await rescued.ledger.enter([event(job_id, EventKind.STARTED, Stage.RENDER, epoch=2)], {})
    assert await rescued.seen(job_id) == ("rendering", int(progress), None)


async def test_the_more_often_a_job_was_sent_the_longer_it_may_wait(rescued: Rescued) -> None:
    """With a long queue each time would only make it longer."""
    await rescued.scene.beat("all", queues=ALL)
    await rescued.sent(5.9, epoch=2)
    await rescued.sent(47, epoch=MOST_EPOCHS)
    assert await rescued.rescue.send_again() == 0
    await rescued.sent(47, epoch=1000)
    assert await rescued.rescue.send_again() == 0, "but not for ever"
    await rescued.sent(6.1, epoch=2)
    assert await rescued.rescue.send_again() == 1


async def test_a_verdict_that_came_in_time_stands(rescued: Rescued) -> None:
    await rescued.scene.beat("all", queues=ALL)
    job_id = await rescued.sent(49, epoch=MOST_EPOCHS)
    rescued.store.decide(Final(job_id=job_id, status=Status.COMPLETED, at=now()))
    await rescued.rescue.send_again()
    assert (await rescued.row(job_id)).status == Status.COMPLETED


async def test_looking_a_silent_job_up_is_no_sign_of_life(rescued: Rescued) -> None:
    await rescued.scene.beat("all", queues=ALL)
    job_id = await rescued.sent(4)
    async with rescued.scene.database.write() as connection:
        assert await jobs.silent(connection, now() - timedelta(seconds=60), 10) == [job_id]
        await jobs.touch(connection, [job_id])
        assert await jobs.silent(connection, now() - timedelta(seconds=60), 10) == []
    assert await rescued.rescue.send_again() == 1


def letter(**changes: object) -> DeadLetter:
    message = StageMessage(job_id="job_1", stage=Stage.ENCODE, trace_id="t", sent_at=now())
    body = json.dumps({"message_id": "m-1", "args": [message.model_dump(mode="json")]})
    known = {"id": "m-1", "queue": "encode", "reason": "delivery_limit", "at": now(), "body": body}
    return DeadLetter.model_validate(known | changes)


def test_letters_are_kept_once_and_dropped(settings: Settings) -> None:
    letters = DeadLetters(FileStore(settings.data_dir / "store"))
    first = letter()
    letters.keep(first)
    letters.keep(letter(reason="rejected"))
    assert list(letters.all()) == [first] == [letters.get("m-1")]
    letters.drop("m-1")
    with pytest.raises(ObjectMissing, match="m-1"):
        letters.get("m-1")


def test_letters_expire(settings: Settings) -> None:
    letters = DeadLetters(FileStore(settings.data_dir / "store"))
    letters.keep(letter())
    letters.expire(now() + timedelta(days=7, hours=-1))
    assert len(list(letters.all())) == 1
    letters.expire(now() + timedelta(days=7, hours=1))
    assert list(letters.all()) == []


def test_a_letter_that_holds_no_message_ends_no_job() -> None:
    assert letter(body="junk").message is None
    assert letter(body='{"args": []}').message is None
    held = letter().message
    assert held is not None
    final = letter().verdict(held)
    assert final.failure is not None
    assert (final.job_id, final.failure.stage, final.failure.code) == ("job_1", Stage.ENCODE, "DeadLettered")
