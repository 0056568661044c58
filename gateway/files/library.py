"""The files of a user: what was uploaded, and the videos of completed jobs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import func, literal, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.context import Gateway
from gateway.database import accesses, artifacts, files, jobs
from gateway.database.files import Inspection, Upload
from gateway.database.jobs import Job
from gateway.database.tables import files as uploads_table
from gateway.database.tables import jobs as jobs_table
from gateway.files.intake import blocking
from gateway.files.kinds import FileType
from gateway.ids import job_of, video_of
from gateway.pagination import Page
from gateway.renditions import rung, rungs, top
from pipeline import keys
from pipeline.vocabulary import ArtifactRef, Status

FILE_ID = re.compile(r"file_[0-9a-f]{32}")
VIDEO_ID = re.compile(r"video_[0-9a-f]{32}")
THUMBNAIL_SIZES = ("small", "medium", "large")
REMOVED_TOGETHER = 100


@dataclass(frozen=True)
class File:
    """One file, wherever it comes from.

    Attributes:
        ref: its bytes; `name` is the name to save it under.
        job: whose video it is; None for an upload.
        published: of that job, by name.
    """

    id: str
    user_id: str
    ref: ArtifactRef
    file_type: str
    created_at: datetime
    updated_at: datetime
    subdirectory: str | None = None
    description: str | None = None
    expires_at: datetime | None = None
    inspection: Inspection = Inspection.READY
    details: Mapping[str, Any] = field(default_factory=dict)
    job: Job | None = None
    published: Mapping[str, ArtifactRef] = field(default_factory=dict)

    def rendition(self, quality: str) -> ArtifactRef:
        """The file at a quality; what was uploaded has but one."""
        if self.job is None:
            return self.ref
        chosen = rung(self.published, quality)
        return chosen.model_copy(update={"name": f"{self.job.id}-{chosen.name}"})


async def find(gateway: Gateway, user_id: str, file_id: str) -> File | None:
    """The file, if it is that user's."""
    if FILE_ID.fullmatch(file_id):
        async with gateway.database.read() as connection:
            upload = await files.find(connection, file_id, user_id)
        return None if upload is None else _uploaded(upload)
    if not VIDEO_ID.fullmatch(file_id):  # what the database may not even be able to compare
        return None
    job = await gateway.lookup.find(job_of(file_id), user_id)
    if job is None:
        return None
    async with gateway.database.read() as connection:
        published = await artifacts.of_job(connection, job.id)
    return _generated(job, published) if rungs(published) else None


async def thumbnail(gateway: Gateway, file: File, size: str) -> ArtifactRef | None:
    """A picture of the file in one of `THUMBNAIL_SIZES`, if there is one."""
    if file.job is not None:
        return file.published.get(f"poster-{size}.jpg")
    async with gateway.database.read() as connection:
        return (await files.thumbnails(connection, file.id)).get(size)


async def page(connection: AsyncConnection, user_id: str, file_type: str | None, page: Page) -> tuple[list[File], int]:
    """A page of a user's files, the newest first, and how many there are in all."""
    mine = uploads_table.c.user_id == user_id, uploads_table.c.stored
    uploaded = select(uploads_table.c.id, uploads_table.c.created_at.label("at"), literal(0).label("made")).where(*mine)
    made = jobs_table.c.user_id == user_id, jobs_table.c.status == Status.COMPLETED
    generated = select(jobs_table.c.id, jobs_table.c.completed_at.label("at"), literal(1).label("made")).where(*made)
    if file_type is not None:
        uploaded = uploaded.where(uploads_table.c.file_type == file_type)
    both = [uploaded, generated] if file_type in (None, FileType.VIDEO) else [uploaded]
    every = union_all(*both).subquery()
    total = (await connection.execute(select(func.count()).select_from(every))).scalar_one()
    order = select(every.c.id).order_by(every.c.at.desc(), every.c.id.desc()).limit(page.size).offset(page.offset)
    ids = list((await connection.execute(order)).scalars())
    found = await _some(connection, ids)
    return [found[one] for one in ids if one in found], total


async def totals(connection: AsyncConnection, user_id: str) -> dict[FileType, tuple[int, int]]:
    """How many files of each type a user has, and their bytes; those of a video in all its qualities."""
    mine = uploads_table.c.user_id == user_id, uploads_table.c.stored
    counted = select(uploads_table.c.file_type, func.count(), func.sum(uploads_table.c.size)).where(*mine)
    rows = await connection.execute(counted.group_by(uploads_table.c.file_type))
    found = dict.fromkeys(FileType, (0, 0)) | {FileType(row[0]): (row[1], int(row[2])) for row in rows}
    videos, bytes_ = await artifacts.video_totals(connection, user_id)
    uploaded = found[FileType.VIDEO]
    return found | {FileType.VIDEO: (uploaded[0] + videos, uploaded[1] + bytes_)}


async def remove(gateway: Gateway, file_ids: Sequence[str]) -> None:
    """Remove uploaded files: first their records in the store, so that no rebuild brings back what is not listed."""
    store = gateway.store.store
    for start in range(0, len(file_ids), REMOVED_TOGETHER):
        some = file_ids[start : start + REMOVED_TOGETHER]
        await asyncio.gather(*(blocking(store.delete, keys.upload(file_id)) for file_id in some))
        async with gateway.database.write() as connection:
            await files.remove(connection, some)


async def downloads(connection: AsyncConnection, file: File) -> int:
    """How often it was downloaded."""
    return (await accesses.downloads(connection, [file.id])).get(file.id, 0)


async def _some(connection: AsyncConnection, ids: Collection[str]) -> dict[str, File]:
    """Files by the ids of uploads and of jobs."""
    found = {one.id: _uploaded(one) for one in (await files.some(connection, ids)).values()}
    videos = await artifacts.videos(connection, ids)
    for job in await jobs.some(connection, list(videos)):
        found[job.id] = _generated(job, videos[job.id])
    return found


def _uploaded(upload: Upload) -> File:
    return File(**vars(upload))


def _generated(job: Job, published: Mapping[str, ArtifactRef]) -> File:
    best, at = top(published), job.projection.completed_at or job.request.created_at
    media = job.media or {}
    return File(
        id=video_of(job.id),
        user_id=job.request.user_id,
        ref=best.model_copy(update={"name": f"{job.id}-{best.name}"}),
        file_type=FileType.VIDEO,
        created_at=at,
        updated_at=at,
        description=job.request.prompt,
        expires_at=job.expires_at,
        details={"job_id": job.id} | dict(media.get("video") or {}) | {"audio": media.get("audio")},
        job=job,
        published=published,
    )
