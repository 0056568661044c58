"""Restores jobs, logs and uploaded files in a database that has lost them, from what the store holds.

Only rows that are missing are added, each job and each file in a transaction of its own, so that it may be broken off,
repeated, and run on a database that has part of the rows. Nothing in the store is changed. Unfinished jobs wait for a
dispatcher afterwards; their workers find what is done already by its records and checkpoints.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import groupby, islice

from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from config.catalogue import Catalogue
from config.settings import Settings
from gateway.database import artifacts, blobs, events, files, jobs
from gateway.database.engine import Database, refuses
from gateway.database.events import Entry
from gateway.database.files import Upload
from gateway.ledger import verdict
from gateway.projection import Projection, advance, conclude
from gateway.retention import shortest_s
from gateway.sidecars import read_log, read_upload
from pipeline import keys
from pipeline.errors import ObjectMissing, RecordUnreadable
from pipeline.jobs import Jobs
from pipeline.requests import signature
from pipeline.store.base import ObjectStore
from pipeline.vocabulary import Event, EventKind, Final, Head, JobRequest, Stage, StageRecord, Status, new_id

TOGETHER = 50
"""Jobs or files that are read at the same time; progress is told after each."""

SQL_ONLY = (
    "webhooks (those of single jobs, too), their secrets and deliveries",
    "rate limits set for single users, and what was used of them in the last hour",
    "access statistics of files",
    "idempotency keys of the last day",
    "tokens of HLS playlists",
    "how many requests joined a running job",
    "log lines of unfinished jobs, and of jobs that ended in the last minute or so",
)
"""What the store does not hold; only a backup of the database brings it back."""


@dataclass
class Restored:
    """What a rebuild has done so far, or would do.

    Attributes:
        jobs: restored, by status.
        files: uploads restored.
        present: jobs and files whose rows are there.
        problems: what could not be restored, or not in full, and why.
    """

    jobs: Counter[Status] = field(default_factory=Counter)
    files: int = 0
    present: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Kept:
    """What the store holds of a job.

    Attributes:
        entries: its log, or what its records tell.
        epoch: how often it was sent, as far as anything tells; at least once, lest workers take its next message for
            the first and do not look for what is done.
    """

    request: JobRequest
    final: Final | None
    entries: tuple[Entry, ...]
    epoch: int

    @property
    def projection(self) -> Projection:
        """The state that all this adds up to."""
        projection = Projection()
        for entry in self.entries:
            projection = advance(projection, entry.event)
        return projection if self.final is None else conclude(projection, self.final)


class Rebuild:
    """One rebuild.

    Args:
        dry_run: only find out what is missing.
    """

    def __init__(
        self, settings: Settings, catalogue: Catalogue, database: Database, store: ObjectStore, *, dry_run: bool = False
    ) -> None:
        self._settings, self._catalogue, self._database, self._store = settings, catalogue, database, store
        self._jobs, self._dry_run = Jobs(store), dry_run
        self.restored = Restored()

    async def run(self, progress: Callable[[Restored], None] = lambda _: None) -> Restored:
        """Restore all that is missing; `progress` is called now and then. Raises `StoreError`, SQLAlchemyError."""
        for prefix, restore in ((keys.JOBS, self._restore_jobs), (keys.UPLOADS, self._restore_uploads)):
            ids = _ids(self._store, prefix)
            while some := await asyncio.to_thread(_some, ids):
                await restore(some)
                progress(self.restored)
        return self.restored

    async def _restore_jobs(self, job_ids: Sequence[str]) -> None:
        async with self._database.read() as connection:
            present = await jobs.present(connection, job_ids)
        self.restored.present += len(present)
        missing = [job_id for job_id in job_ids if job_id not in present]
        for kept in await asyncio.gather(*(asyncio.to_thread(self._read_job, job_id) for job_id in missing)):
            if kept is not None and await self._add(f"Job {kept.request.job_id}", partial(self._add_job, kept)):
                self.restored.jobs[kept.projection.status] += 1

    async def _restore_uploads(self, file_ids: Sequence[str]) -> None:
        async with self._database.read() as connection:
            present = await files.present(connection, file_ids)
        self.restored.present += len(present)
        missing = [file_id for file_id in file_ids if file_id not in present]
        for upload in await asyncio.gather(*(asyncio.to_thread(self._read_upload, file_id) for file_id in missing)):
            if upload is not None and await self._add(f"File {upload.id}", partial(self._add_upload, upload)):
                self.restored.files += 1

    async def _add(self, name: str, add: Callable[[AsyncConnection], Awaitable[None]]) -> bool:
        """Whether it was restored, or would be."""
        if self._dry_run:
            return True
        try:
            async with self._database.write() as connection:
                await add(connection)
        except IntegrityError:  # a gateway was faster
            self.restored.present += 1
        except (DBAPIError, OverflowError) as error:
            if not refuses(error):
                raise
            self.restored.problems.append(f"{name} holds what the database cannot.")
        else:
            return True
        return False

    async def _add_job(self, kept: Kept, connection: AsyncConnection) -> None:
        request, final = kept.request, kept.final
        retention_s = shortest_s(request.expires_in, self._settings.gateway.retention_days)
        await jobs.add(connection, jobs.NewJob(request, self._signature(kept), retention_s, kept.epoch))
        await events.append(connection, kept.entries)
        if final is not None:
            await artifacts.add(connection, request.job_id, final.artifacts)
        media, at = (final.metadata or None, final.at) if final else (None, None)
        await jobs.save(connection, request.job_id, kept.projection, len(kept.entries), media, at=at)

    def _signature(self, kept: Kept) -> str:
        """ "" where another revision of the model made the video, or nobody can tell: it is not reused then."""
        if kept.request.model not in self._catalogue.names:
            return ""
        revision = self._catalogue.get(kept.request.model).revision
        made_by = kept.final.metadata.get("generation", {}).get("model_revision") if kept.final else revision
        return signature(kept.request, revision) if made_by == revision else ""

    async def _add_upload(self, upload: Upload, connection: AsyncConnection) -> None:
        await blobs.guard(self._database, connection, upload.ref.key)
        await files.claim(connection, upload)
        await files.show(connection, upload.id)

    # What the store holds; in threads

    def _read_job(self, job_id: str) -> Kept | None:
        """None if it was deleted or cannot be read."""
        try:
            final = self._jobs.final(job_id)
            if final is not None and final.bare:
                return None
            request = self._jobs.request(job_id)
        except (RecordUnreadable, ObjectMissing) as error:
            self.restored.problems.append(f"Job {job_id}: {error}")
            return None
        head = self._read_head(job_id) if final is None else None
        epoch = 1 if head is None else head.epoch
        entries = self._read_log(job_id) if final is not None else None
        if entries is None:
            entries = self._log_of_records(job_id, epoch, final)
        return Kept(request, final, tuple(entries), epoch)

    def _read_head(self, job_id: str) -> Head | None:
        """Its render takes no message of an earlier epoch any more."""
        key = keys.head(job_id)
        try:
            return Head.model_validate_json(self._store.get(key)[0])
        except ObjectMissing:
            return None
        except ValidationError:
            self.restored.problems.append(f"Job {job_id}: the object {key} cannot be read; the job is restored.")
            return None

    def _read_log(self, job_id: str) -> list[Entry] | None:
        try:
            return read_log(self._store, job_id)
        except RecordUnreadable as error:
            self.restored.problems.append(f"Job {job_id}: {error} The job is restored with a short log.")
            return None

    def _log_of_records(self, job_id: str, epoch: int, final: Final | None) -> list[Entry]:
        """Beginning and end of each stage that is done, and the verdict."""
        records = [record for stage in Stage if (record := self._read_record(job_id, stage)) is not None]
        told = [event for record in records for event in _events(record, epoch)]
        projection, entries = Projection(), list[Entry]()
        for event in sorted(told, key=lambda event: event.at):
            projection = advance(projection, event)
            entries.append(Entry(len(entries) + 1, projection.progress, event))
        if final is not None:
            entries.append(Entry(len(entries) + 1, projection.progress, verdict(final, projection)))
        return entries

    def _read_record(self, job_id: str, stage: Stage) -> StageRecord | None:
        try:
            return self._jobs.record(job_id, stage)
        except RecordUnreadable as error:
            self.restored.problems.append(f"Job {job_id}: {error} The job is restored.")
            return None

    def _read_upload(self, file_id: str) -> Upload | None:
        try:
            return read_upload(self._store, file_id)
        except RecordUnreadable as error:
            self.restored.problems.append(f"File {file_id}: {error}")
            return None


def _ids(store: ObjectStore, prefix: str) -> Iterator[str]:
    """Of jobs or files, each once for all its objects, which are listed together."""
    names = (info.key.removeprefix(prefix).partition("/")[0].removesuffix(".json") for info in store.list(prefix))
    return (name for name, _ in groupby(names))


def _some(ids: Iterator[str]) -> list[str]:
    return list(islice(ids, TOGETHER))


def _events(record: StageRecord, epoch: int) -> list[Event]:
    known = {"job_id": record.job_id, "stage": record.stage, "epoch": epoch, "hop": 0}
    began = record.finished_at - timedelta(seconds=record.seconds)
    return [
        Event(id=new_id("event"), kind=EventKind.STARTED, n=0, at=began, **known),
        Event(id=new_id("event"), kind=EventKind.FINISHED, n=1, at=record.finished_at, **known),
    ]
