"""What users were granted beyond the deployment's limits, and what they used of the limits that are counted here."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import BindParameter, Integer, bindparam, cast, delete, func, insert, literal, null, select, union_all
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.database.pieces import padded
from gateway.database.tables import limit_grants, limit_uses

# Made once: see docs/decisions/0020-what-a-submit-costs.md.
GRANTED = select(limit_grants).where(limit_grants.c.user_id == bindparam("user_id"))
USE = insert(limit_uses)
_USERS: BindParameter[str] = bindparam("user_ids", expanding=True)
_NAME: BindParameter[str] = bindparam("name")
_USES = (
    select(limit_uses.c.user_id, cast(null(), Integer), func.count(), func.min(limit_uses.c.at))
    .where(limit_uses.c.user_id.in_(_USERS), limit_uses.c.name == _NAME, limit_uses.c.at > bindparam("since"))
    .group_by(limit_uses.c.user_id)
)
_GRANTS = select(limit_grants.c.user_id, limit_grants.c.quota, literal(0), null()).where(
    limit_grants.c.user_id.in_(_USERS), limit_grants.c.name == _NAME
)
USED = union_all(_USES, _GRANTS)


async def granted(connection: AsyncConnection, user_id: str) -> dict[str, int]:
    """The user's own limits by name; those of the deployment hold for the others."""
    rows = await connection.execute(GRANTED, {"user_id": user_id})
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


UNUSED = Use(None, 0, None)


async def used(connection: AsyncConnection, user_ids: Collection[str], name: str, since: datetime) -> dict[str, Use]:
    """How much each of some users has used of a limit since then."""
    found = dict.fromkeys(user_ids, UNUSED)
    asked = {"user_ids": padded(user_ids), "name": name, "since": since}
    for user_id, quota, count, first in await connection.execute(USED, asked):
        known = found[user_id]
        found[user_id] = Use(known.quota if quota is None else quota, known.count + count, known.first or first)
    return found


async def forget(connection: AsyncConnection, until: datetime) -> None:
    """Remove what counts no more."""
    await connection.execute(delete(limit_uses).where(limit_uses.c.at <= until))


async def use(connection: AsyncConnection, user_ids: Iterable[str], name: str, at: datetime) -> None:
    """Note a use by each of some users."""
    rows = [{"id": uuid.uuid4().hex, "user_id": user_id, "name": name, "at": at} for user_id in user_ids]
    await connection.execute(USE, rows)
