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


async def add(
    connection: AsyncConnection, user_id: str, key: str, fingerprint: str, answer: Mapping[str, Any], before: datetime
) -> bool:
    """Keep an answer, in the place of one of before then; False if the key is in use, also by a transaction that is
    committed meanwhile.
    """
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    kept = {"fingerprint": fingerprint, "answer": dict(answer), "created_at": now()}
    statement = insert(keys).values(user_id=user_id, key=key, **kept)
    renewed = statement.on_conflict_do_update(
        index_elements=["user_id", "key"], set_=kept, where=keys.c.created_at < before
    )
    return (await connection.execute(renewed.returning(keys.c.key))).one_or_none() is not None


async def remove(connection: AsyncConnection, before: datetime) -> None:
    """Forget keys of before then."""
    await connection.execute(delete(keys).where(keys.c.created_at < before))
