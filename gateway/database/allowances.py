"""What users were granted beyond the deployment's limits, and what they used of the limits that are counted here."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, delete, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.database.tables import limit_grants, limit_uses


async def granted(connection: AsyncConnection, user_id: str) -> dict[str, int]:
    """The user's own limits by name; those of the deployment hold for the others."""
    rows = await connection.execute(select(limit_grants).where(limit_grants.c.user_id == user_id))
    return {row.name: row.quota for row in rows}


async def grant(connection: AsyncConnection, user_id: str, name: str, quota: int) -> None:
    """Give a user a limit of their own."""
    build = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = build(limit_grants).values(user_id=user_id, name=name, quota=quota)
    await connection.execute(statement.on_conflict_do_update(index_elements=["user_id", "name"], set_={"quota": quota}))


async def revoke(connection: AsyncConnection, user_id: str) -> None:
    """Let the deployment's limits hold for a user again."""
    await connection.execute(delete(limit_grants).where(limit_grants.c.user_id == user_id))


@dataclass(frozen=True)
class Use:
    """What a user has used of a limit.

    Attributes:
        quota: the user's own; None if the deployment's holds.
        first: when what counts was used first.
    """

    quota: int | None
    count: int
    first: datetime | None


_OWN = select(limit_grants.c.quota).where(
    limit_grants.c.user_id == bindparam("user_id"), limit_grants.c.name == bindparam("name")
)
_USED = select(_OWN.scalar_subquery(), func.count(), func.min(limit_uses.c.at)).where(
    limit_uses.c.user_id == bindparam("user_id"),
    limit_uses.c.name == bindparam("name"),
    limit_uses.c.at > bindparam("since"),
)


async def used(connection: AsyncConnection, user_id: str, name: str, since: datetime) -> Use:
    """How much a user has used of a limit since then."""
    found = await connection.execute(_USED, {"user_id": user_id, "name": name, "since": since})
    return Use(*found.one())


async def forget(connection: AsyncConnection, until: datetime) -> None:
    """Remove what counts no more."""
    await connection.execute(delete(limit_uses).where(limit_uses.c.at <= until))


async def use(connection: AsyncConnection, user_id: str, name: str, at: datetime) -> None:
    """Note a use."""
    await connection.execute(insert(limit_uses), {"id": uuid.uuid4().hex, "user_id": user_id, "name": name, "at": at})
