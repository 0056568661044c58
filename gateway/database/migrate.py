"""Bring the schema up to date. Any number of gateways may start at once: one migrates, the others wait for it."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from gateway.database.engine import Database

LOCK = 1


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
