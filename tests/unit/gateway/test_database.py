"""Migrations and types, on whichever database the settings name."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import event, insert, inspect, select, text
from sqlalchemy.exc import IntegrityError, OperationalError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection

from config.settings import Settings
from gateway.database import deliveries, events, figures, files, jobs, migrate, pace, webhooks, workers
from gateway.database.engine import Database
from gateway.database.pieces import one_of
from gateway.database.tables import metadata
from gateway.database.tables import workers as table
from pipeline.vocabulary import Heartbeat, now

TABLES = {"jobs", "events", "artifacts", "workers", "idempotency_keys"}
TABLES |= {"limit_grants", "limit_uses"}
TABLES |= {"files", "file_thumbnails", "file_accesses", "unreferenced"}
TABLES |= {"webhooks", "webhook_secrets", "deliveries", "delivery_attempts"}
Ask = Callable[[AsyncConnection], Awaitable[object]]
OFTEN: dict[str, tuple[Ask, tuple[str, ...]]] = {
    "waits": (lambda connection: figures.waits(connection, now()), ("(started_at>?)",)),
    "ended": (lambda connection: figures.ended(connection, now()), ("(status=? AND completed_at>?)",)),
    "cache": (lambda connection: figures.completed(connection, 9), ("ix_jobs_status_completed_at (status=?)",)),
    "pace": (lambda connection: pace.measured(connection, "tiny", 9), ("(model=? AND status=?)",)),
    "dispatch": (lambda connection: jobs.claim(connection, "tiny", 9), ("(model=? AND status=?)",)),
    "old log": (lambda connection: deliveries.forget(connection, now(), 9), ("(ended_at<?)",)),
    "expired": (lambda connection: files.expired(connection, now(), 9), ("(expires_at<?)", "(created_at<?)")),
    "webhooks": (lambda connection: webhooks.listening(connection, ["a", "b"]), ("(user_id=? AND job_id=?)",)),
}
"""What is asked again and again of tables that grow, and how SQLite is to look it up."""


@pytest.fixture
def settings(t2m_settings: Callable[..., Settings], servers: tuple[str, ...]) -> Settings:
    """With an empty database."""
    return t2m_settings(*servers)


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    database = Database(settings.database_url)
    yield database
    await database.close()


async def tables(database: Database) -> set[str]:
    async with database.write() as connection:
        return set(await connection.run_sync(lambda sync: inspect(sync).get_table_names())) - {"alembic_version"}


async def test_up_down_and_up_again(database: Database) -> None:
    await migrate.upgrade(database)
    assert await tables(database) == TABLES
    await migrate.downgrade(database, "base")
    assert await tables(database) == set()
    await migrate.upgrade(database)
    await migrate.upgrade(database)
    assert await tables(database) == TABLES


async def test_the_migrations_make_what_the_code_declares(database: Database) -> None:
    await migrate.upgrade(database)
    async with database.write() as connection:
        differences = await connection.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync, opts={"compare_type": True}), metadata)
        )
    assert differences == []


async def test_gateways_that_start_together_migrate_once(settings: Settings) -> None:
    databases = [Database(settings.database_url) for _ in range(5)]
    await asyncio.gather(*(migrate.upgrade(one) for one in databases))
    assert await tables(databases[0]) == TABLES
    for one in databases:
        await one.close()


async def test_a_failed_migration_leaves_nothing_behind(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(text("CREATE TABLE workers (x INTEGER)"))
    with pytest.raises(Exception, match="workers"):
        await migrate.upgrade(database)
    assert await tables(database) == {"workers"}


async def test_times_come_back_in_utc_whatever_zone_they_had(database: Database) -> None:
    await migrate.upgrade(database)
    at = datetime(2026, 1, 2, 3, 4, 5, 678_901, timezone(timedelta(hours=5)))
    async with database.write() as connection:
        await connection.execute(
            metadata.tables["workers"].insert().values(
                id="w", host="h", queues=[], seen_at=at, stopping=False, heartbeat={}
            )
        )  # fmt: skip
    async with database.read() as connection:
        row = (await connection.execute(metadata.tables["workers"].select())).one()
    assert row.seen_at == at
    assert row.seen_at.tzinfo is UTC
    with pytest.raises(StatementError, match="time zone"):
        async with database.write() as connection:
            await connection.execute(metadata.tables["workers"].update().values(seen_at=datetime(2026, 1, 1)))


async def test_writers_of_many_connections_wait_for_each_other(settings: Settings, database: Database) -> None:
    await migrate.upgrade(database)
    others = [Database(settings.database_url) for _ in range(3)]

    async def write(one: Database, n: int) -> None:
        beat = Heartbeat(worker_id=f"w{n % 4}", host="h", queues=("encode",), at=now())
        async with one.write() as connection:
            await workers.beat(connection, beat)

    await asyncio.gather(*(write(one, n) for n in range(25) for one in others))
    async with database.read() as connection:
        assert await workers.live(connection, now() - timedelta(minutes=1)) == {"encode": 4}
    for one in others:
        await one.close()


async def test_few_different_statements_ask_for_any_number_of_values(database: Database) -> None:
    await migrate.upgrade(database)
    ids = [f"worker-{number:03}" for number in range(40)]
    async with database.write() as connection:
        for worker_id in ids:
            await workers.beat(connection, Heartbeat(worker_id=worker_id, host="h", queues=("encode",), at=now()))
    asked: set[str] = set()
    event.listen(database.engine.sync_engine, "before_cursor_execute", lambda *about: asked.add(about[2]))
    column = metadata.tables["workers"].c.id
    async with database.write() as connection:
        for count in range(len(ids) + 1):
            rows = await connection.execute(select(column).where(one_of(column, ids[:count])).order_by(column))
            assert list(rows.scalars()) == ids[:count]
    assert len({statement for statement in asked if "workers" in statement}) == 8  # for 0, 1, 2, 4 … 64


async def test_the_loop_goes_on_while_the_database_is_surveyed(database: Database) -> None:
    numbers = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 1000000)"

    async def survey() -> int:
        async with database.survey() as connection:
            return int((await connection.execute(text(f"{numbers} SELECT max(x) FROM n"))).scalar_one())

    turns, task = 0, asyncio.create_task(survey())
    while not task.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert task.result() == 1_000_000
    assert turns > 10


async def test_a_survey_changes_nothing(database: Database) -> None:
    await migrate.upgrade(database)
    with pytest.raises(OperationalError, match="readonly"):
        async with database.survey() as connection:
            await connection.execute(table.delete())


async def test_errors_hold_no_values(database: Database) -> None:
    await migrate.upgrade(database)
    statement = insert(table).values(id="w", host="s3cret")
    with pytest.raises(IntegrityError) as raised:
        async with database.write() as connection:
            await connection.execute(statement)
    assert "s3cret" not in str(raised.value)


async def test_news_of_thousands_of_jobs_can_be_asked_for_at_once(database: Database) -> None:
    await migrate.upgrade(database)
    async with database.read() as connection:
        assert await events.newer(connection, {f"job_{n}": 0 for n in range(3000)}, 100) == {}


async def test_sweeps_find_references_by_an_index(database: Database) -> None:
    await migrate.upgrade(database)
    async with database.read() as connection:
        asked = "SELECT key FROM {} WHERE key IN ('a', 'b')"
        for table in ("artifacts", "files", "file_thumbnails"):
            plan = (await connection.execute(text("EXPLAIN QUERY PLAN " + asked.format(table)))).all()
            assert f"ix_{table}_key" in str(plan)


@pytest.mark.parametrize(("ask", "lookups"), OFTEN.values(), ids=OFTEN.keys())
async def test_what_is_asked_often_reads_no_whole_table(database: Database, ask: Ask, lookups: tuple[str, ...]) -> None:
    await migrate.upgrade(database)
    asked: list[tuple[str, tuple[object, ...]]] = []
    async with database.write() as connection:
        event.listen(database.engine.sync_engine, "before_cursor_execute", lambda *about: asked.append(about[2:4]))
        await ask(connection)
        plans = [await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", values) for query, values in asked[:]]
        steps = [row.detail for plan in plans for row in plan]
    assert not [step for step in steps if re.match("SCAN (jobs|files|deliveries|webhooks)", step)]
    for lookup in lookups:
        assert lookup in str(steps)


async def test_workers_are_forgotten_when_they_were_silent_for_long(database: Database) -> None:
    await migrate.upgrade(database)
    beat = Heartbeat(worker_id="w", host="h", queues=("encode",), at=now())
    async with database.write() as connection:
        await workers.beat(connection, beat)
        await workers.forget(connection, now() - timedelta(days=1))
        assert len(await workers.beats(connection, now() - timedelta(days=2))) == 1
        await workers.forget(connection, now() + timedelta(seconds=1))
        assert await workers.beats(connection, now() - timedelta(days=2)) == []
