"""What refers to which blob, and which blobs nothing refers to."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import CompoundSelect, delete, func, select, union_all
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.database.engine import Database
from gateway.database.pieces import among, one_of
from gateway.database.tables import artifacts, file_thumbnails, files, jobs, unreferenced


@dataclass(frozen=True)
class Shared:
    """How much storing by content spares.

    Attributes:
        references: of files, thumbnails and videos to blobs, and the bytes they would take one by one.
        blobs: that they refer to, and the bytes these take.
        loose: blobs that nothing refers to and that were not yet removed, and their bytes.
        joined: requests that were answered by a job already running.
        reused: jobs that share an earlier job's files.
    """

    references: tuple[int, int]
    blobs: tuple[int, int]
    loose: tuple[int, int]
    joined: int
    reused: int


async def guard(database: Database, connection: AsyncConnection, key: str) -> None:
    """Until the end of the transaction, nobody else begins to refer to the blob, or removes it."""
    await database.lock(connection, f"blob:{key}")


async def referenced(connection: AsyncConnection, keys: Collection[str]) -> set[str]:
    """Those of the keys that something refers to, files included that are just being stored."""
    every = _references().alias()
    return await among(connection, select(every.c.key).distinct(), every.c.key, list(keys))


async def tie(connection: AsyncConnection, keys: Collection[str]) -> None:
    """Something refers to them again."""
    await connection.execute(delete(unreferenced).where(one_of(unreferenced.c.key, keys)))


async def loosen(connection: AsyncConnection, sizes: Mapping[str, int], at: datetime) -> None:
    """Nothing refers to these blobs, as a sweep found; what was found before keeps its time."""
    build = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    rows = [{"key": key, "size": size, "since": at} for key, size in sizes.items()]
    if rows:
        await connection.execute(build(unreferenced).on_conflict_do_nothing(), rows)


async def loose(connection: AsyncConnection, since: datetime, prefix: str) -> list[str]:
    """Blobs under a prefix that nothing refers to since then or longer."""
    chosen = (unreferenced.c.since <= since) & unreferenced.c.key.startswith(prefix, autoescape=True)
    return list((await connection.execute(select(unreferenced.c.key).where(chosen))).scalars())


async def shared(connection: AsyncConnection) -> Shared:
    """As it is at the moment."""
    every = _references().alias()
    total = select(func.count(), func.coalesce(func.sum(every.c.size), 0))
    references = (await connection.execute(total.select_from(every))).one()
    single = select(every.c.key, func.max(every.c.size).label("size")).group_by(every.c.key).subquery()
    counted = select(func.count(), func.coalesce(func.sum(single.c.size), 0)).select_from(single)
    once = (await connection.execute(counted)).one()
    left = select(func.count(), func.coalesce(func.sum(unreferenced.c.size), 0)).select_from(unreferenced)
    over = (await connection.execute(left)).one()
    again = select(func.coalesce(func.sum(jobs.c.joined), 0), func.count(jobs.c.reused_from))
    joined, reused = (await connection.execute(again)).one()
    return Shared(
        (references[0], int(references[1])), (once[0], int(once[1])), (over[0], int(over[1])), int(joined), reused
    )


def _references() -> CompoundSelect[Any]:
    tables = (artifacts, files, file_thumbnails)
    return union_all(*(select(table.c.key, table.c.size) for table in tables))
