"""`t2m user limit`: what one user may ask for in an hour."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from config.errors import ConfigError
from config.settings import Settings, load
from gateway.auth.base import MAX_USER
from gateway.database import allowances
from gateway.database.migrate import opened


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
    settings = load(data_dir=data)
    own = asyncio.run(_change(settings, user, wanted, reset=reset))
    return {name: own.get(name, int(getattr(settings.limits, name))) for name in wanted}


async def _change(settings: Settings, user: str, wanted: Mapping[str, int | None], *, reset: bool) -> dict[str, int]:
    async with opened(settings) as database, database.write() as connection:
        if reset:
            await allowances.revoke(connection, user)
        for name, quota in wanted.items():
            if quota is not None:
                await allowances.grant(connection, user, name, quota)
        return await allowances.granted(connection, user)
