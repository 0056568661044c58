"""`t2m user limit`: what one user may ask for in an hour."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from config.errors import ConfigError
from config.settings import load
from gateway.auth.base import MAX_USER
from gateway.database import allowances, migrate
from gateway.database.engine import Database
from gateway.errors import DatabaseError


def limit(data: Path | None, user: str, wanted: Mapping[str, int | None], *, reset: bool) -> dict[str, int]:
    """Set the limits that are not None; returns all that hold for the user.

    Args:
        reset: forget the user's own limits first.

    Raises:
        ConfigError: there can be no such user.
        DatabaseError: the database cannot be used.
    """
    if not 0 < len(user) <= MAX_USER or "\x00" in user:
        raise ConfigError(f"A user id has 1 to {MAX_USER} characters.")
    settings = load() if data is None else load(data_dir=data)
    try:
        own = asyncio.run(_change(settings.database_url, user, wanted, reset=reset))
    except (OSError, SQLAlchemyError) as error:
        raise DatabaseError(
            "The database cannot be used.", remedy="Check that it runs and that `database.url` is right."
        ) from error
    return {name: own.get(name, int(getattr(settings.limits, name))) for name in wanted}


async def _change(url: str, user: str, wanted: Mapping[str, int | None], *, reset: bool) -> dict[str, int]:
    database = Database(url)
    try:
        await migrate.upgrade(database)
        async with database.write() as connection:
            if reset:
                await allowances.revoke(connection, user)
            for name, quota in wanted.items():
                if quota is not None:
                    await allowances.grant(connection, user, name, quota)
            return await allowances.granted(connection, user)
    finally:
        await database.close()
