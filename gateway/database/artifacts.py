"""The published files of completed jobs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Row, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.database.tables import artifacts
from pipeline.vocabulary import ArtifactRef


async def add(connection: AsyncConnection, job_id: str, refs: Sequence[ArtifactRef]) -> None:
    """Store what a job published; called once, in the transaction that stores its verdict."""
    rows = [{"job_id": job_id} | ref.model_dump(exclude={"version"}) for ref in refs]
    if rows:
        await connection.execute(insert(artifacts), rows)


async def of_job(connection: AsyncConnection, job_id: str) -> dict[str, ArtifactRef]:
    """A job's files by name."""
    rows = await connection.execute(select(artifacts).where(artifacts.c.job_id == job_id))
    return {row.name: _ref(row) for row in rows}


async def videos(connection: AsyncConnection, job_ids: Collection[str]) -> dict[str, dict[str, ArtifactRef]]:
    """The MP4s of several jobs: job id to name to file."""
    chosen = artifacts.c.job_id.in_(job_ids) & artifacts.c.name.like("%p.mp4")
    found: dict[str, dict[str, ArtifactRef]] = {}
    for row in await connection.execute(select(artifacts).where(chosen)):
        found.setdefault(row.job_id, {})[row.name] = _ref(row)
    return found


def _ref(row: Row[Any]) -> ArtifactRef:
    return ArtifactRef(name=row.name, digest=row.digest, key=row.key, size=row.size, media_type=row.media_type)
