"""The published files of completed jobs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Row, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.database import blobs
from gateway.database.pieces import one_of
from gateway.database.tables import artifacts, jobs
from pipeline.vocabulary import ArtifactRef, Status


async def add(connection: AsyncConnection, job_id: str, refs: Sequence[ArtifactRef]) -> None:
    """Store what a job published; called once, in the transaction that stores its verdict."""
    rows = [{"job_id": job_id} | ref.model_dump(exclude={"version"}) for ref in refs]
    if rows:
        await blobs.tie(connection, [ref.key for ref in refs])
        await connection.execute(insert(artifacts), rows)


async def of_job(connection: AsyncConnection, job_id: str) -> dict[str, ArtifactRef]:
    """A job's files by name."""
    rows = await connection.execute(select(artifacts).where(artifacts.c.job_id == job_id))
    return {row.name: _ref(row) for row in rows}


async def videos(connection: AsyncConnection, job_ids: Collection[str]) -> dict[str, dict[str, ArtifactRef]]:
    """The MP4s of several jobs: job id to name to file."""
    chosen = one_of(artifacts.c.job_id, job_ids) & artifacts.c.name.like("%p.mp4")
    found: dict[str, dict[str, ArtifactRef]] = {}
    for row in await connection.execute(select(artifacts).where(chosen)):
        found.setdefault(row.job_id, {})[row.name] = _ref(row)
    return found


async def video_totals(connection: AsyncConnection, user_id: str) -> tuple[int, int]:
    """How many videos a user has, and the bytes of all their MP4s."""
    mine = (jobs.c.user_id == user_id) & (jobs.c.status == Status.COMPLETED) & artifacts.c.name.like("%p.mp4")
    counted = select(func.count(artifacts.c.job_id.distinct()), func.coalesce(func.sum(artifacts.c.size), 0))
    row = (await connection.execute(counted.select_from(artifacts.join(jobs)).where(mine))).one()
    return row[0], int(row[1])


def _ref(row: Row[Any]) -> ArtifactRef:
    return ArtifactRef(name=row.name, digest=row.digest, key=row.key, size=row.size, media_type=row.media_type)
