"""What the gateway keeps in the store beside jobs and blobs, so that it outlives the database: see `rebuild`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TypeVar

from pydantic import AwareDatetime, ValidationError

from gateway.database.events import Entry
from gateway.database.files import Upload
from pipeline import keys
from pipeline.errors import AlreadyExists, ObjectMissing, RecordUnreadable
from pipeline.store.base import ObjectStore
from pipeline.vocabulary import ArtifactRef, Event, Word

WordT = TypeVar("WordT", bound=Word)


class LogEntry(Word):
    """An event as the projector numbered it; `progress` is the job's percentage with it."""

    seq: int
    progress: float
    event: Event


class JobLog(Word):
    """The log of a job that has ended; created once at `keys.log`."""

    job_id: str
    entries: tuple[LogEntry, ...]


class UploadRecord(Word):
    """An uploaded file, but for what is found in it; created once at `keys.upload`, removed before its row."""

    id: str
    user_id: str
    ref: ArtifactRef
    file_type: str
    subdirectory: str | None
    description: str | None
    created_at: AwareDatetime
    expires_at: AwareDatetime | None


def keep_log(store: ObjectStore, job_id: str, entries: Sequence[Entry]) -> None:
    """Create the log of a job; one that is there stands."""
    told = tuple(LogEntry(seq=one.seq, progress=one.progress, event=one.event) for one in entries)
    with suppress(AlreadyExists):
        store.create(keys.log(job_id), JobLog(job_id=job_id, entries=told).model_dump_json().encode())


def read_log(store: ObjectStore, job_id: str) -> list[Entry] | None:
    """The log of a job, if it was kept. Raises `RecordUnreadable`."""
    found = _read(store, keys.log(job_id), JobLog)
    return None if found is None else [Entry(one.seq, one.progress, one.event) for one in found.entries]


def keep_upload(store: ObjectStore, upload: Upload) -> None:
    """Create the record of an uploaded file. Raises `AlreadyExists`."""
    known = {name: getattr(upload, name) for name in UploadRecord.model_fields if name != "version"}
    store.create(keys.upload(upload.id), UploadRecord(**known).model_dump_json().encode())


def read_upload(store: ObjectStore, file_id: str) -> Upload | None:
    """An uploaded file that is to be looked into anew; None if it was deleted. Raises `RecordUnreadable`."""
    found = _read(store, keys.upload(file_id), UploadRecord)
    if found is None:
        return None
    known = {name: getattr(found, name) for name in UploadRecord.model_fields if name != "version"}
    return Upload(updated_at=found.created_at, **known)


def _read(store: ObjectStore, key: str, kind: type[WordT]) -> WordT | None:
    try:
        data, _ = store.get(key)
    except ObjectMissing:
        return None
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise RecordUnreadable(f"The object {key} is no valid {kind.__name__} of this release.") from error
