"""How often files were fetched, by day; of uploads and of videos."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

from sqlalchemy import ColumnElement, delete, func, literal, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.database.pieces import one_of
from gateway.database.tables import file_accesses as accesses
from gateway.database.tables import files, jobs
from gateway.ids import job_of
from pipeline.vocabulary import now


class Kind(StrEnum):
    """In which way a file was fetched."""

    DOWNLOAD = "download"
    STREAM = "stream"
    THUMBNAIL = "thumbnail"


@dataclass(frozen=True)
class Day:
    """What was fetched in one way on one day (UTC)."""

    day: date
    kind: Kind
    signed: bool
    count: int
    last_at: datetime


async def note(connection: AsyncConnection, file_id: str, user_id: str, kind: Kind, *, signed: bool) -> None:
    """Count one more, unless the file was deleted meanwhile; concurrent ones add up."""
    build = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    at = now()
    seen = {"day": at.date(), "last_at": at, "count": 1}
    values = {"file_id": file_id, "user_id": user_id, "kind": kind, "signed": signed, **seen}
    row = select(*(literal(value, accesses.c[name].type) for name, value in values.items())).where(_present(file_id))
    statement = build(accesses).from_select(list(values), row.with_for_update(read=True, key_share=True))
    keys = ["file_id", "day", "kind", "signed"]
    again = {"count": accesses.c.count + 1, "last_at": at}
    await connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=again))


def _present(file_id: str) -> ColumnElement[bool]:
    """Of an upload's row, or of the row of a video's job."""
    if file_id.startswith("video_"):
        return jobs.c.id == job_of(file_id)
    return files.c.id == file_id


async def of_file(connection: AsyncConnection, file_id: str) -> list[Day]:
    """All of one file, the first day first."""
    query = select(accesses).where(accesses.c.file_id == file_id).order_by(accesses.c.day)
    rows = (await connection.execute(query)).mappings()
    return [Day(row["day"], Kind(row["kind"]), row["signed"], row["count"], row["last_at"]) for row in rows]


async def downloads(connection: AsyncConnection, file_ids: Collection[str]) -> dict[str, int]:
    """How often files were downloaded, by id; those that never were are left out."""
    chosen = one_of(accesses.c.file_id, file_ids) & (accesses.c.kind == Kind.DOWNLOAD)
    query = select(accesses.c.file_id, func.sum(accesses.c.count)).where(chosen).group_by(accesses.c.file_id)
    return {row[0]: int(row[1]) for row in await connection.execute(query)}


async def of_user(connection: AsyncConnection, user_id: str) -> dict[Kind, int]:
    """How often a user's present files were fetched, by the way."""
    query = select(accesses.c.kind, func.sum(accesses.c.count)).where(accesses.c.user_id == user_id)
    found = {Kind(row[0]): int(row[1]) for row in await connection.execute(query.group_by(accesses.c.kind))}
    return {kind: found.get(kind, 0) for kind in Kind}


async def forget(connection: AsyncConnection, file_id: str) -> None:
    """Of a file that is gone."""
    await connection.execute(delete(accesses).where(accesses.c.file_id == file_id))
