"""The gateway's database, for commands that work on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.exc import SQLAlchemyError

from config.settings import Settings
from gateway.database import migrate
from gateway.database.engine import Database
from gateway.errors import DatabaseError


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Database]:
    """The database for the block, with the newest schema.

    Raises:
        DatabaseError: it cannot be used, at the beginning or later.
    """
    database = Database(settings.database_url)
    try:
        await migrate.upgrade(database)
        yield database
    except (OSError, SQLAlchemyError) as error:
        raise DatabaseError from error
    finally:
        await database.close()
