"""Migrations, dispatcher and projector once more, on PostgreSQL."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, cast

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from config.settings import Settings
from gateway.database import engine
from gateway.database.driver import PostgresDriver
from gateway.database.engine import Database
from gateway.database.migrate import upgrade
from gateway.errors import translate
from tests.unit.gateway.fixtures import store
from tests.unit.gateway.test_database import (
    database,
    settings,
    test_a_failed_migration_leaves_nothing_behind,
    test_gateways_that_start_together_migrate_once,
    test_the_migrations_make_what_the_code_declares,
    test_times_come_back_in_utc_whatever_zone_they_had,
    test_up_down_and_up_again,
    test_writers_of_many_connections_wait_for_each_other,
)
from tests.unit.gateway.test_upgrades import test_gateways_of_the_last_release_work_on_todays_schema

__all__ = [
    "database",
    "settings",
    "store",
    "test_a_failed_migration_leaves_nothing_behind",
    "test_gateways_of_the_last_release_work_on_todays_schema",
    "test_gateways_that_start_together_migrate_once",
    "test_the_migrations_make_what_the_code_declares",
    "test_times_come_back_in_utc_whatever_zone_they_had",
    "test_up_down_and_up_again",
    "test_writers_of_many_connections_wait_for_each_other",
]


@pytest.fixture
def servers() -> tuple[str, ...]:
    return ("postgres",)


async def end_connections(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    mine = "pid <> pg_backend_pid() AND datname = current_database()"
    await connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {mine}")
    await connection.close()


async def test_an_idle_connection_that_was_lost_is_noticed_before_it_is_used(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await upgrade(database)
    await end_connections(settings.database_url.replace("+asyncpg", ""))
    monkeypatch.setattr(engine, "IDLE_S", 0)
    await database.ping()


async def test_a_connection_that_was_lost_under_load_costs_one_unavailable_answer(
    database: Database, settings: Settings
) -> None:
    await upgrade(database)
    await database.ping()
    await end_connections(settings.database_url.replace("+asyncpg", ""))
    with pytest.raises(DBAPIError) as lost:
        await database.ping()
    told = translate(lost.value)
    assert told is not None
    assert told.status == 503
    await database.ping()


async def test_a_server_that_only_reads_is_not_healthy(database: Database, settings: Settings) -> None:
    await upgrade(database)
    async with database.write() as connection:
        name = (await connection.execute(text("SELECT current_database()"))).scalar_one()
        await connection.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'))
    later = Database(settings.database_url)
    with pytest.raises(ConnectionError):
        await later.ping()
    await later.close()


async def test_a_kept_connection_that_was_lost_is_replaced(database: Database, settings: Settings) -> None:
    assert await database.rows("SELECT 1", ()) == [(1,)]
    await end_connections(settings.database_url.replace("+asyncpg", ""))
    with suppress(DBAPIError):  # where the loss was not noticed yet
        await database.rows("SELECT 1", ())
    assert await database.rows("SELECT 1", ()) == [(1,)]


def say_the_last_words(connection: Any) -> None:
    """What a server that stops sends, without the end of the connection that follows."""
    fields = b"SFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
    connection._protocol.data_received(b"E" + (len(fields) + 4).to_bytes(4) + fields)


async def test_a_server_that_is_about_to_close_a_connection_costs_one_unavailable_answer(database: Database) -> None:
    async def through_the_pool() -> None:
        async with database.read() as reader:
            assert (await reader.execute(text("SELECT 1"))).scalar_one() == 1

    async def by_the_kept_connection() -> None:
        assert await database.rows("SELECT 1", ()) == [(1,)]

    await by_the_kept_connection()
    kept = cast(PostgresDriver, database._driver)._connection
    async with database.read() as reader:
        pooled = (await cast(AsyncConnection, reader).get_raw_connection()).driver_connection
    for ask, connection in ((through_the_pool, pooled), (by_the_kept_connection, kept)):
        say_the_last_words(connection)
        with pytest.raises(DBAPIError) as lost:
            await ask()
        told = translate(lost.value)
        assert told is not None
        assert told.status == 503
        await ask()


async def test_a_statement_that_was_given_up_holds_nobody_back(database: Database) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await database.rows("SELECT pg_sleep(60)", ())
    async with asyncio.timeout(20):
        assert await database.rows("SELECT 1", ()) == [(1,)]


async def test_callers_of_the_kept_connection_take_turns(database: Database) -> None:
    found = await asyncio.gather(*(database.rows("SELECT $1::int", (n,)) for n in range(20)))
    assert found == [[(n,)] for n in range(20)]


async def test_a_wrong_statement_is_no_outage(database: Database) -> None:
    with pytest.raises(DBAPIError) as wrong:
        await database.rows("SELECT nothing FROM nowhere", ())
    assert translate(wrong.value) is None
    assert await database.rows("SELECT 1", ()) == [(1,)]
