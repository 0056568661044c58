"""The keys under which requests were carried out, and what was answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.database.tables import idempotency_keys as keys
from pipeline.vocabulary import now


@dataclass(frozen=True)
class Kept:
    """What was asked under a key, and the answer."""

    fingerprint: str
    answer: dict[str, Any]


async def find(connection: AsyncConnection, user_id: str, key: str, since: datetime) -> Kept | None:
    """What is kept under a user's key since then."""
    query = select(keys.c.fingerprint, keys.c.answer).where(
        keys.c.user_id == user_id, keys.c.key == key, keys.c.created_at >= since
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else Kept(row.fingerprint, row.answer)


async def add(connection: AsyncConnection, user_id: str, key: str, fingerprint: str, answer: Mapping[str, Any]) -> bool:
    """Keep an answer; False if the key is in use, also by a transaction that is committed meanwhile."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(keys).values(
        user_id=user_id, key=key, fingerprint=fingerprint, answer=dict(answer), created_at=now()
    )
    added = await connection.execute(statement.on_conflict_do_nothing().returning(keys.c.key))
    return added.one_or_none() is not None


async def remove(
    connection: AsyncConnection, before: datetime, user_id: str | None = None, key: str | None = None
) -> None:
    """Forget keys of before then: all of them, or one."""
    statement = delete(keys).where(keys.c.created_at < before)
    if key is not None:
        statement = statement.where(keys.c.user_id == user_id, keys.c.key == key)
    await connection.execute(statement)
