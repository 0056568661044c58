"""The projection and the log, whatever the bus does to the events: repeats, reorderings, crashes in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from config.catalogue import Catalogue
from config.settings import Settings
from gateway.database import jobs, migrate
from gateway.database.engine import Database
from gateway.database.lookup import Lookup
from gateway.database.tables import events
from gateway.ledger import Ledger
from gateway.metrics import Metrics
from gateway.news import News
from gateway.projection import Projection, advance, conclude
from gateway.projector import BATCH, Projector
from gateway.webhooks.announcer import Announcer
from pipeline import keys
from pipeline.jobs import Jobs
from pipeline.requests import resolve
from pipeline.store.base import ObjectStore
from pipeline.vocabulary import Event, EventKind, Final, JobRequest, Stage, Status, now
from tests.unit.gateway.fixtures import OpenWorld
from tests.unit.gateway.support import MEDIA, World, event, until

JOB = "job_1"
BEGIN = now()


@st.composite
def told(draw: st.DrawFn) -> Event:
    return event(
        JOB,
        draw(st.sampled_from([EventKind.STARTED, EventKind.PROGRESS, EventKind.LOG, EventKind.FINISHED])),
        draw(st.sampled_from(list(Stage))),
        draw(st.integers(0, 5)),
        epoch=draw(st.integers(1, 3)),
        hop=draw(st.integers(0, 2)),
        at=BEGIN + timedelta(seconds=draw(st.integers(0, 1000))),
        fraction=draw(st.none() | st.floats(0, 1)),
    )


FINAL = Final(job_id=JOB, status=Status.CANCELLED, at=BEGIN, cancelled_by="ada")
Step = Callable[[Projection], Projection]


def steps(log: list[Event]) -> list[Step]:
    """What happens to a projection: its events, and the verdict."""
    return [*(lambda before, one=one: advance(before, one) for one in log), lambda before: conclude(before, FINAL)]


def result(taken: list[Step]) -> tuple[Projection, object]:
    state = Projection()
    for step in taken:
        state = step(state)
    return state, state.percent


@given(log=st.lists(told(), max_size=8, unique_by=lambda one: one.order), data=st.data())
def test_the_projection_does_not_depend_on_order_or_repetition(log: list[Event], data: st.DataObject) -> None:
    once = steps(log)
    repeated = once + data.draw(st.lists(st.sampled_from(once), max_size=8))
    assert result(data.draw(st.permutations(repeated))) == result(once)


@given(log=st.lists(told(), max_size=12))
def test_progress_never_falls_and_100_means_completed(log: list[Event]) -> None:
    states = [Projection()]
    for one in log:
        states.append(advance(states[-1], one))
    assert all(before.percent <= after.percent <= 99 for before, after in pairwise(states))
    done = conclude(states[-1], FINAL.model_copy(update={"status": Status.COMPLETED}))
    assert (done.percent, done.activity) == (100, "completed")


@pytest.mark.parametrize("first", [Status.COMPLETED, Status.FAILED, Status.CANCELLED])
@pytest.mark.parametrize("second", [Status.COMPLETED, Status.FAILED, Status.CANCELLED])
def test_final_states_absorb(first: Status, second: Status) -> None:
    state = conclude(Projection(), FINAL.model_copy(update={"status": first}))
    later = conclude(state, FINAL.model_copy(update={"status": second, "at": now()}))
    assert later == state
    assert advance(state, event(JOB, EventKind.STARTED, Stage.RENDER)).status is first


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    database = Database(settings.database_url)
    await migrate.upgrade(database)
    yield database
    await database.close()


@pytest.fixture
def projector(database: Database, store: ObjectStore) -> Projector:
    return make_projector(database, store)


def make_projector(database: Database, store: ObjectStore) -> Projector:
    metrics = Metrics()
    ledger = Ledger(database, News(database), metrics, Announcer(Settings()))
    return Projector(
        database, Jobs(store), lambda: pytest.fail("not subscribed here"), ledger, metrics, asyncio.Event()
    )


async def accepted(database: Database) -> JobRequest:
    job = resolve({"prompt": "p"}, user_id="ada", catalogue=Catalogue.load(), default_model="tiny")
    async with database.write() as connection:
        await jobs.add(connection, jobs.NewJob(job))
    return job


async def log_of(database: Database, job_id: str) -> list[tuple[int, str]]:
    async with database.read() as connection:
        query = select(events.c.seq, events.c.event_id).where(events.c.job_id == job_id).order_by(events.c.seq)
        return [(row.seq, row.event_id) for row in await connection.execute(query)]


async def test_each_event_is_stored_once_and_numbered_without_gaps(database: Database, projector: Projector) -> None:
    first, second = await accepted(database), await accepted(database)
    told = {
        job.job_id: [event(job.job_id, EventKind.PROGRESS, Stage.RENDER, n, fraction=n / 9) for n in range(9)]
        for job in (first, second)
    }
    mixed = [one for pair in zip(*told.values(), strict=True) for one in pair]
    await projector.project(mixed[:7])
    await projector.project(mixed[3:12] + mixed[3:12])
    await projector.project(mixed[::-1])
    for job_id, its in told.items():
        log = await log_of(database, job_id)
        assert [seq for seq, _ in log] == list(range(1, 10))
        assert sorted(event_id for _, event_id in log) == sorted(one.id for one in its)


async def test_two_projectors_on_the_same_events_store_them_once(
    settings: Settings, database: Database, store: ObjectStore, projector: Projector
) -> None:
    other = Database(settings.database_url)
    twin = make_projector(other, store)
    its = [await accepted(database) for _ in range(3)]
    told = [event(job.job_id, EventKind.PROGRESS, Stage.RENDER, n, fraction=0.1) for n in range(10) for job in its]
    await asyncio.gather(
        *(one.project(told[start : start + 6]) for start in range(0, 30, 3) for one in (projector, twin))
    )
    for job in its:
        assert [seq for seq, _ in await log_of(database, job.job_id)] == list(range(1, 11))
    await other.close()


async def test_a_message_with_what_the_database_cannot_hold_is_kept(database: Database, projector: Projector) -> None:
    job = await accepted(database)
    await projector.project([event(job.job_id, EventKind.LOG, Stage.ENCODE, message="a\x00b", data={"x": "\x00"})])
    assert len(await log_of(database, job.job_id)) == 1


async def test_an_event_the_database_refuses_does_not_stop_the_others(database: Database, projector: Projector) -> None:
    job = await accepted(database)
    good = [event(job.job_id, EventKind.PROGRESS, Stage.RENDER, n) for n in range(4)]
    wide = event(job.job_id, EventKind.PROGRESS, Stage.RENDER, id="x" * 65)
    large = event(job.job_id, EventKind.PROGRESS, Stage.RENDER, 2**70)
    await projector.project([*good[:2], wide, large, *good[2:]])
    stored = {event_id for _, event_id in await log_of(database, job.job_id)}
    assert {one.id for one in good} <= stored
    assert large.id not in stored


async def test_a_verdict_of_a_newer_release_does_not_stop_the_others(
    database: Database, store: ObjectStore, projector: Projector
) -> None:
    newer, job = await accepted(database), await accepted(database)
    store.create(keys.final(newer.job_id), b'{"version": 99}')
    Jobs(store).cancel(job.job_id, "ada")
    await projector.project([event(one.job_id, EventKind.CANCELLED, Stage.RENDER) for one in (newer, job)])
    found = [await Lookup(database).find(one.job_id, "ada") for one in (newer, job)]
    assert [one and one.projection.status for one in found] == [Status.PROCESSING, Status.CANCELLED]


async def test_one_does_not_stop_cancellations_from_being_finished_either(
    database: Database, store: ObjectStore, projector: Projector
) -> None:
    newer, job = await accepted(database), await accepted(database)
    store.create(keys.final(newer.job_id), b'{"version": 99}')
    async with database.write() as connection:
        for one in (newer, job):
            await jobs.begin_cancelling(connection, one.job_id)
    assert await projector.repair_once(now() + timedelta(seconds=1)) == 1
    found = await Lookup(database).find(job.job_id, "ada")
    assert found and found.projection.status is Status.CANCELLED


async def test_the_store_decides_not_the_event(database: Database, store: ObjectStore, projector: Projector) -> None:
    job = await accepted(database)
    await projector.project([event(job.job_id, EventKind.COMPLETED, Stage.PUBLISH)])
    found = await Lookup(database).find(job.job_id, "ada")
    assert found is not None
    assert found.projection.status is Status.PROCESSING
    Jobs(store).cancel(job.job_id, "ada")
    await projector.project([event(job.job_id, EventKind.COMPLETED, Stage.PUBLISH, 1)])
    found = await Lookup(database).find(job.job_id, "ada")
    assert found is not None
    assert found.projection.status is Status.CANCELLED


async def test_a_verdict_nobody_told_is_found(world: World) -> None:
    job_id = await world.generate()

    async def dispatched() -> bool | None:
        async with world.gateway.database.read() as connection:
            row = (await connection.execute(select(jobs.jobs.c.dispatched_at))).scalar_one()
        return row is not None or None

    await until(dispatched)
    projector = make_projector(world.gateway.database, world.store)
    assert await projector.repair_once(now() + timedelta(seconds=1)) == 0
    await world.work(world.worker.decide, job_id)
    assert await projector.repair_once(now() - timedelta(hours=1)) == 0, "only silent jobs are looked up"
    assert await projector.repair_once(now() + timedelta(seconds=1)) == 1
    job = await world.data(f"/jobs/{job_id}")
    assert (job["status"], job["result"]["file_size"]) == ("completed", MEDIA["1080p.mp4"][1])
    assert await projector.repair_once(now() + timedelta(seconds=1)) == 0


async def test_events_survive_a_failing_projector(open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world = await open_world()
    real, failures = jobs.lock, [OSError("away"), RuntimeError("a bug")]

    async def lock(*arguments: object) -> object:
        if failures:
            raise failures.pop()
        return await real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(jobs, "lock", lock)
    job_id = await world.completed()
    assert not failures
    assert len(await log_of(world.gateway.database, job_id)) == 2 * len(Stage) + 1
    page = await (await world.client.get("/metrics")).text()
    assert 't2m_role_crashes_total{role="projector"} 2.0' in page


async def test_a_backlog_longer_than_a_batch_is_projected(world: World) -> None:
    job_id = await world.generate()
    for n in range(BATCH + 50):
        world.worker.tell(job_id, EventKind.PROGRESS, Stage.RENDER, n, fraction=n / (BATCH + 50))

    async def all_there() -> list[int] | None:
        log = await log_of(world.gateway.database, job_id)
        return [seq for seq, _ in log] if len(log) == BATCH + 50 else None

    assert await until(all_there) == list(range(1, BATCH + 51))


def test_times_of_the_projection_are_those_of_the_events() -> None:
    early, late = datetime.fromisoformat("2026-01-01T00:00:00Z"), datetime.fromisoformat("2026-01-01T00:00:05Z")
    state = advance(Projection(), event(JOB, EventKind.STARTED, Stage.ENCODE, at=late))
    assert advance(state, event(JOB, EventKind.STARTED, Stage.RENDER, at=early)).started_at == early
