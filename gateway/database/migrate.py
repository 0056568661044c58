"""Bring the schema up to date. Any number of gateways may start at once: one migrates, the others wait for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from config.settings import Settings
from gateway.database.engine import Database
from gateway.errors import DatabaseError

LOCK = "migration"


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Database]:
    """The deployment's database for the block, with the newest schema.

    Raises:
        DatabaseError: it cannot be used, at the beginning or later.
    """
    try:
        database = Database(settings.database_url)
        try:
            await upgrade(database)
            yield database
        finally:
            await database.close()
    except (OSError, SQLAlchemyError) as error:
        raise DatabaseError from error


async def upgrade(database: Database, revision: str = "head") -> None:
    """Migrate up to `revision` in one transaction; a failed migration leaves the schema as it was."""
    async with database.write() as connection:
        await database.lock(connection, LOCK)
        await connection.run_sync(lambda sync: command.upgrade(_config(sync), revision))


async def downgrade(database: Database, revision: str) -> None:
    """Migrate down to `revision` ("base": no tables at all) in one transaction."""
    async with database.write() as connection:
        await database.lock(connection, LOCK)
        await connection.run_sync(lambda sync: command.downgrade(_config(sync), revision))


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", "gateway.database:migrations")
    config.attributes["connection"] = connection
    return config
