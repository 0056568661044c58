"""How many jobs are released, whose, in which order, and what becomes of them when sending fails."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import dramatiq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import select, update

from config.catalogue import Catalogue
from config.settings import BrokerSettings, Settings
from gateway.database import jobs, migrate, workers
from gateway.database.engine import Database
from gateway.database.tables import jobs as table
from gateway.dispatcher import Dispatcher
from gateway.metrics import Metrics
from pipeline.broker import InProcessBroker
from pipeline.errors import BrokerError
from pipeline.requests import resolve
from pipeline.vocabulary import Heartbeat, Stage, StageMessage, Status, now

CATALOGUE = Catalogue.load()


class Recording(InProcessBroker):
    """The in-process broker without workers; keeps what was sent, and fails on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[StageMessage] = []
        self.fails = False
        self.full = ""
        """A queue that takes nothing."""

    def enqueue(self, message: dramatiq.Message, *, delay: int | None = None) -> dramatiq.Message:
        if self.fails or message.queue_name == self.full:
            raise BrokerError("The broker is away.")
        self.sent.append(StageMessage.model_validate(message.args[0]))
        return super().enqueue(message, delay=delay)


class Scene:
    """A database and dispatchers on it, driven pass by pass."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings, self.database, self.broker = settings, database, Recording()

    def dispatcher(self) -> Dispatcher:
        return Dispatcher(self.settings, CATALOGUE, self.database, self.broker, Metrics(), asyncio.Event())

    async def accept(self, user: str, age_s: float = 0, model: str = "tiny") -> str:
        job = resolve({"prompt": "p", "model": model}, user_id=user, catalogue=CATALOGUE, default_model="tiny")
        job = job.model_copy(update={"created_at": now() - timedelta(seconds=age_s)})
        async with self.database.write() as connection:
            await jobs.add(connection, jobs.NewJob(job))
        return job.job_id

    async def beat(self, worker_id: str, **fields: object) -> None:
        known = {"worker_id": worker_id, "host": "h", "queues": ("render.tiny",), "at": now()} | fields
        async with self.database.write() as connection:
            await workers.beat(connection, Heartbeat.model_validate(known))

    async def change(self, job_id: str, **values: object) -> None:
        async with self.database.write() as connection:
            await connection.execute(update(table).where(table.c.id == job_id).values(**values))

    async def users_in_flight(self) -> Counter[str]:
        async with self.database.read() as connection:
            rows = await connection.execute(select(table.c.user_id).where(table.c.dispatched_at.is_not(None)))
            return Counter(rows.scalars())

    @property
    def sent(self) -> list[str]:
        return [message.job_id for message in self.broker.sent]


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    database = Database(settings.database_url)
    await migrate.upgrade(database)
    yield database
    await database.close()


@pytest.fixture
def embedded(settings: Settings, database: Database) -> Scene:
    return Scene(settings, database)


@pytest.fixture
def scene(settings: Settings, database: Database) -> Scene:
    """As with RabbitMQ: only heartbeats make room."""
    remote = BrokerSettings(url=SecretStr("amqp://never-connected/"))
    return Scene(settings.model_copy(update={"broker": remote}), database)


async def test_without_a_live_worker_jobs_wait(scene: Scene) -> None:
    await scene.accept("ada")
    assert await scene.dispatcher().dispatch() == 0
    await scene.beat("encoder", queues=("encode",))
    await scene.beat("leaving", stopping=True)
    assert await scene.dispatcher().dispatch() == 0
    await scene.beat("gpu")
    assert await scene.dispatcher().dispatch() == 1


async def test_a_worker_that_fell_silent_is_not_counted_on(scene: Scene) -> None:
    await scene.beat("gpu")
    await scene.accept("ada")
    async with scene.database.write() as connection:
        old = now() - timedelta(seconds=4 * scene.settings.worker.heartbeat_s)
        await connection.execute(update(workers.workers).values(seen_at=old))
    assert await scene.dispatcher().dispatch() == 0


async def test_two_jobs_per_worker_are_released(scene: Scene) -> None:
    for _ in range(7):
        await scene.accept("ada")
    await scene.beat("gpu-1")
    assert [await scene.dispatcher().dispatch() for _ in range(2)] == [2, 0]
    await scene.beat("gpu-2")
    assert [await scene.dispatcher().dispatch() for _ in range(2)] == [2, 0]
    await scene.change(scene.sent[0], status=Status.COMPLETED)
    await scene.change(scene.sent[1], progress=70.0, stage=Stage.RENDER)
    assert await scene.dispatcher().dispatch() == 2, "a finished job and one past its render free their places"


async def test_the_oldest_goes_first(embedded: Scene) -> None:
    ids = {age: await embedded.accept("ada", age) for age in (5, 50, 500)}
    await embedded.dispatcher().dispatch()
    assert set(embedded.sent) == {ids[500], ids[50]}


async def test_a_flood_by_one_user_does_not_hold_another_back(embedded: Scene) -> None:
    for age in range(100, 70, -1):
        await embedded.accept("flood", age)
    await embedded.accept("ada", 1)
    await embedded.dispatcher().dispatch()
    assert await embedded.users_in_flight() == {"flood": 1, "ada": 1}


async def test_turns_count_what_a_user_has_in_flight(scene: Scene) -> None:
    await scene.beat("gpu-1")
    for age in (100, 99, 98):
        await scene.accept("flood", age)
    await scene.dispatcher().dispatch()
    await scene.accept("ada", 1)
    await scene.accept("ada", 0)
    await scene.beat("gpu-2")
    await scene.dispatcher().dispatch()
    assert await scene.users_in_flight() == {"flood": 2, "ada": 2}


async def test_the_message_says_which_sending_it_is(embedded: Scene) -> None:
    job_id = await embedded.accept("ada")
    await embedded.dispatcher().dispatch()
    assert await embedded.dispatcher().dispatch() == 0
    restarted = embedded.dispatcher()
    await restarted.recall()
    assert await restarted.dispatch() == 1
    assert [(one.job_id, one.stage, one.epoch, one.hop) for one in embedded.broker.sent] == [
        (job_id, Stage.RENDER, 1, 0),
        (job_id, Stage.RENDER, 2, 0),
    ]


async def test_finished_jobs_are_not_recalled(embedded: Scene) -> None:
    job_id = await embedded.accept("ada")
    await embedded.dispatcher().dispatch()
    await embedded.change(job_id, status=Status.FAILED)
    await embedded.dispatcher().recall()
    assert await embedded.dispatcher().dispatch() == 0


async def test_a_failed_send_leaves_the_job_waiting(embedded: Scene) -> None:
    job_id = await embedded.accept("ada")
    embedded.broker.fails = True
    with pytest.raises(BrokerError):
        await embedded.dispatcher().dispatch()
    embedded.broker.fails = False
    assert await embedded.dispatcher().dispatch() == 1
    assert embedded.sent == [job_id]
    assert embedded.broker.sent[0].epoch == 1, "it was sent once"


async def test_a_queue_that_takes_nothing_holds_no_other_model_back(embedded: Scene) -> None:
    stuck, others = CATALOGUE.names[1], [CATALOGUE.names[0], CATALOGUE.names[2]]
    ids = {name: await embedded.accept("ada", model=name) for name in (stuck, *others)}
    embedded.broker.full = f"render.{stuck}"
    with pytest.raises(BrokerError):
        await embedded.dispatcher().dispatch()
    assert set(embedded.sent) == {ids[name] for name in others}
    embedded.broker.full = ""
    assert await embedded.dispatcher().dispatch() == 1


async def test_the_claim_of_a_dead_dispatcher_runs_out(embedded: Scene) -> None:
    job_id = await embedded.accept("ada")
    await embedded.change(job_id, claimed_at=now(), epoch=1)
    assert await embedded.dispatcher().dispatch() == 0, "somebody may be sending it"
    await embedded.change(job_id, claimed_at=now() - 2 * jobs.CLAIM_LEASE)
    assert await embedded.dispatcher().dispatch() == 1
    assert embedded.broker.sent[0].epoch == 2


async def test_several_dispatchers_send_each_job_once_and_keep_the_limit(scene: Scene) -> None:
    for n in range(4):
        await scene.beat(f"gpu-{n}")
    for _ in range(20):
        await scene.accept("ada")
    others = [Database(scene.settings.database_url) for _ in range(3)]
    crowd = [Scene(scene.settings, one) for one in others]
    await asyncio.gather(*(one.dispatcher().dispatch() for one in crowd for _ in range(3)))
    sent = [job_id for one in crowd for job_id in one.sent]
    assert len(sent) == len(set(sent)) == 8
    for one in others:
        await one.close()


@given(waiting=st.lists(st.sampled_from("abc"), max_size=9), room=st.integers(1, 6))
def test_shares_are_fair(migrated: Path, waiting: list[str], room: int) -> None:
    async def play(folder: str) -> tuple[Counter[str], Counter[str]]:
        database = Database(f"sqlite+aiosqlite:///{shutil.copy(migrated, folder)}")
        scene = Scene(Settings(gateway={"max_in_flight_per_worker": room}), database)
        for n, user in enumerate(waiting):
            await scene.accept(user, 1000 - n)
        await scene.dispatcher().dispatch()
        given = await scene.users_in_flight()
        await database.close()
        return given, Counter(waiting)

    with TemporaryDirectory() as folder:
        given_to, asked = asyncio.run(play(folder))
    assert sum(given_to.values()) == min(room, len(waiting))
    least_served = min((given_to[user] for user in asked if given_to[user] < asked[user]), default=room)
    assert all(count <= least_served + 1 for count in given_to.values())
