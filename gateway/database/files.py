"""The files users have uploaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, func, insert, select, union, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.database import blobs
from gateway.database.pieces import among, one_of
from gateway.database.tables import file_accesses, file_thumbnails, files
from pipeline.vocabulary import ArtifactRef, now

ABANDONED = timedelta(hours=6)
"""A file that was not stored so long after it was claimed belongs to a gateway that died."""


class Inspection(StrEnum):
    """Whether a file was looked into."""

    PENDING = "pending"
    READY = "ready"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Upload:
    """A file a user has uploaded.

    Attributes:
        ref: its bytes; `name` is the file's, `media_type` was decided by content.
        details: what was found in it.
        expires_at: when it is removed; None: when it is deleted.
    """

    id: str
    user_id: str
    ref: ArtifactRef
    file_type: str
    subdirectory: str | None
    description: str | None
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None = None
    inspection: Inspection = Inspection.PENDING
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Criteria:
    """Which of a user's files are meant; all that are given must hold."""

    file_type: str | None = None
    subdirectory: str | None = None
    created_before: datetime | None = None
    accessed_before: datetime | None = None
    larger_than: int | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing is given, so that no file is meant."""
        return all(value is None for value in vars(self).values())

    def conditions(self) -> list[ColumnElement[bool]]:
        """Of the WHERE clause."""
        given: dict[Any, object] = {
            files.c.file_type.__eq__: self.file_type,
            files.c.subdirectory.__eq__: self.subdirectory,
            files.c.created_at.__lt__: self.created_before,
            files.c.size.__gt__: self.larger_than,
        }
        chosen: list[ColumnElement[bool]] = [make(value) for make, value in given.items() if value is not None]
        if self.accessed_before is not None:
            accessed = select(file_accesses.c.file_id).where(
                file_accesses.c.file_id == files.c.id, file_accesses.c.last_at >= self.accessed_before
            )
            chosen += [~accessed.exists(), files.c.created_at < self.accessed_before]
        return chosen


async def used(connection: AsyncConnection, user_id: str) -> int:
    """Bytes of a user's files, and of those that are just being stored."""
    total = await connection.execute(select(func.coalesce(func.sum(files.c.size), 0)).where(files.c.user_id == user_id))
    return int(total.scalar_one())


async def claim(connection: AsyncConnection, upload: Upload) -> None:
    """Refer to a blob that is about to be placed, so that no sweep removes it; nobody sees the file yet."""
    ref = upload.ref
    await blobs.tie(connection, [ref.key])
    await connection.execute(
        insert(files).values(
            id=upload.id,
            user_id=upload.user_id,
            filename=ref.name,
            digest=ref.digest,
            key=ref.key,
            size=ref.size,
            content_type=ref.media_type,
            file_type=upload.file_type,
            subdirectory=upload.subdirectory,
            description=upload.description,
            created_at=upload.created_at,
            updated_at=upload.updated_at,
            expires_at=upload.expires_at,
            stored=False,
            inspection=upload.inspection,
            inspect_at=upload.created_at,
            inspections=0,
            details=dict(upload.details),
        )
    )


async def show(connection: AsyncConnection, file_id: str) -> bool:
    """The blob is in its place; False if the file is no longer claimed."""
    shown = await connection.execute(update(files).where(files.c.id == file_id).values(stored=True))
    return bool(shown.rowcount)


async def find(connection: AsyncConnection, file_id: str, user_id: str) -> Upload | None:
    """The file, if it is that user's."""
    query = select(files).where(files.c.id == file_id, files.c.user_id == user_id, files.c.stored)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else _upload(row)


async def some(connection: AsyncConnection, file_ids: Collection[str]) -> dict[str, Upload]:
    """Files by id."""
    rows = await connection.execute(select(files).where(one_of(files.c.id, file_ids)))
    return {row.id: _upload(row) for row in rows}


async def present(connection: AsyncConnection, file_ids: Sequence[str]) -> set[str]:
    """Those of the files that are here, or are just being stored."""
    return await among(connection, select(files.c.id), files.c.id, file_ids)


async def matching(connection: AsyncConnection, user_id: str, criteria: Criteria) -> list[Upload]:
    """A user's files that meet the criteria, the oldest first."""
    chosen = and_(files.c.user_id == user_id, files.c.stored, *criteria.conditions())
    rows = await connection.execute(select(files).where(chosen).order_by(files.c.created_at, files.c.id))
    return [_upload(row) for row in rows]


async def remove(connection: AsyncConnection, file_ids: Sequence[str]) -> None:
    """Forget some files, then their fetches: of none a new one comes (see `accesses.note`). Their blobs go when a sweep
    finds that nothing refers to them.
    """
    await connection.execute(delete(files).where(one_of(files.c.id, file_ids)))
    await connection.execute(delete(file_accesses).where(one_of(file_accesses.c.file_id, file_ids)))


async def expired(connection: AsyncConnection, at: datetime, limit: int | None = None) -> list[str]:
    """Ids of files whose time is over, and of those whose gateway died before it had stored them."""
    over = select(files.c.id).where(files.c.stored, files.c.expires_at <= at)
    abandoned = select(files.c.id).where(~files.c.stored, files.c.created_at < at - ABANDONED)
    return list((await connection.execute(union(over, abandoned).limit(limit))).scalars())


# What was found in them


async def due(connection: AsyncConnection, limit: int, lease: timedelta) -> list[Upload]:
    """Take files nobody looks into at the moment, the oldest first, for as long as `lease`."""
    at = now()
    waiting = and_(files.c.inspection == Inspection.PENDING, files.c.stored, files.c.inspect_at <= at)
    chosen = select(files.c.id).where(waiting).order_by(files.c.inspect_at).limit(limit)
    if connection.dialect.name == "postgresql":
        chosen = chosen.with_for_update(skip_locked=True)
    values = {"inspect_at": at + lease, "inspections": files.c.inspections + 1}
    taken = await connection.execute(update(files).where(files.c.id.in_(chosen)).values(values).returning(files))
    return [_upload(row) for row in taken]


async def inspected(
    connection: AsyncConnection,
    file_id: str,
    found: Inspection,
    details: Mapping[str, Any],
    thumbnails: Mapping[str, ArtifactRef],
) -> None:
    """Keep what was found in a file, unless it was deleted meanwhile."""
    values = {"inspection": found, "details": dict(details), "updated_at": now()}
    kept = await connection.execute(update(files).where(files.c.id == file_id).values(values))
    if not kept.rowcount:
        return
    await connection.execute(delete(file_thumbnails).where(file_thumbnails.c.file_id == file_id))
    await blobs.tie(connection, [ref.key for ref in thumbnails.values()])
    rows = [{"file_id": file_id, **_columns(ref), "name": name} for name, ref in thumbnails.items()]
    if rows:
        await connection.execute(insert(file_thumbnails), rows)


async def postpone(connection: AsyncConnection, file_id: str, pause: timedelta, most: int) -> None:
    """Look into a file again after a pause, or never if that was tried `most` times."""
    mine = files.c.id == file_id
    await connection.execute(update(files).where(mine).values(inspect_at=now() + pause))
    given_up = update(files).where(mine, files.c.inspections >= most)
    await connection.execute(given_up.values(inspection=Inspection.UNREADABLE))


async def thumbnails(connection: AsyncConnection, file_id: str) -> dict[str, ArtifactRef]:
    """A file's thumbnails by their sizes' names."""
    rows = await connection.execute(select(file_thumbnails).where(file_thumbnails.c.file_id == file_id))
    return {
        row.name: ArtifactRef(name=row.name, digest=row.digest, key=row.key, size=row.size, media_type=row.media_type)
        for row in rows
    }


def _columns(ref: ArtifactRef) -> dict[str, Any]:
    return ref.model_dump(exclude={"version", "name"})


def _upload(row: Row[Any]) -> Upload:
    name, size = row.filename, row.size
    return Upload(
        id=row.id,
        user_id=row.user_id,
        ref=ArtifactRef(name=name, digest=row.digest, key=row.key, size=size, media_type=row.content_type),
        file_type=row.file_type,
        subdirectory=row.subdirectory,
        description=row.description,
        created_at=row.created_at,
        updated_at=row.updated_at,
        expires_at=row.expires_at,
        inspection=Inspection(row.inspection),
        details=row.details,
    )


def ids(uploads: Sequence[Upload]) -> list[str]:
    """Of files."""
    return [upload.id for upload in uploads]
