"""What the store knows of a job: request, stage records, verdict. Imports no stage and no model."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar

from pydantic import ValidationError

from pipeline import keys
from pipeline.errors import AlreadyExists, ObjectMissing, PreconditionFailed, RecordUnreadable
from pipeline.store.base import ObjectStore
from pipeline.vocabulary import Final, JobRequest, Stage, StageRecord, Status, Word, now

CACHED_WORDS = 256
"""Requests and records kept in memory, some 2 kB each: those of the jobs in hand, so that no stage reads them twice."""

READING = 16
"""Words read at a time; two whose keys share a lock merely wait for each other."""

WordT = TypeVar("WordT", bound=Word)


class Jobs:
    """Reads and creates the fixed objects of jobs; thread-safe. Methods raise what the store raises.

    Requests and records never change once they exist, so they are remembered; `final` is always asked for.
    """

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self._known: OrderedDict[str, Word] = OrderedDict()
        self._lock = threading.Lock()
        self._reading = [threading.Lock() for _ in range(READING)]

    def accept(self, request: JobRequest) -> None:
        """Create `request.json`. Raises `AlreadyExists`."""
        key = keys.request(request.job_id)
        self.store.create(key, request.model_dump_json().encode())
        self._remember(key, request)

    def request(self, job_id: str) -> JobRequest:
        """What was accepted. Raises `ObjectMissing`, `RecordUnreadable`."""
        key = keys.request(job_id)
        found = self._recall(key, JobRequest) or self._load(key, JobRequest)
        if found is None:
            raise ObjectMissing(f"There is no job {job_id}.", remedy="It may have been deleted.")
        return found

    def present(self, job_id: str) -> frozenset[str]:
        """Keys of all objects of a job: in one request, what asking for verdict and records would take several."""
        return frozenset(info.key for info in self.store.list(keys.job(job_id)))

    def learn(self, request: JobRequest | None, records: Iterable[StageRecord]) -> None:
        """Remember what a message brought along."""
        if request is not None:
            self._remember(keys.request(request.job_id), request)
        for record in records:
            self._remember(keys.record(record.job_id, record.stage), record)

    def known(self, job_id: str, stages: Iterable[Stage]) -> tuple[StageRecord, ...]:
        """Those of the records that are in memory."""
        found = (self._recall(keys.record(job_id, stage), StageRecord) for stage in stages)
        return tuple(record for record in found if record is not None)

    def record(self, job_id: str, stage: Stage) -> StageRecord | None:
        """The record of a finished stage, None before. Raises `RecordUnreadable`."""
        key = keys.record(job_id, stage)
        return self._recall(key, StageRecord) or self._load(key, StageRecord)

    def has_record(self, job_id: str, stage: Stage) -> bool:
        """Whether a stage is finished; cheaper than reading its record."""
        key = keys.record(job_id, stage)
        return self._recall(key, StageRecord) is not None or self.store.head(key) is not None

    def commit(self, record: StageRecord) -> StageRecord:
        """Create the record of a stage; the loser of a race gets the winner's record back."""
        key = keys.record(record.job_id, record.stage)
        try:
            self.store.create(key, record.model_dump_json().encode())
        except AlreadyExists:
            winner = self.record(record.job_id, record.stage)
            if winner is None:
                raise
            return winner
        self._remember(key, record)
        return record

    def final(self, job_id: str) -> Final | None:
        """The verdict over a job, None while it runs. Raises `RecordUnreadable`."""
        return self._read(keys.final(job_id), Final)

    def decide(self, final: Final) -> Final:
        """Create the verdict; who comes too late gets the one that stands."""
        try:
            self.store.create(keys.final(final.job_id), final.model_dump_json().encode())
        except AlreadyExists:
            standing = self.final(final.job_id)
            if standing is None:
                raise
            return standing
        return final

    def cancel(self, job_id: str, by: str) -> Final:
        """Try to make the verdict "cancelled" on behalf of user `by`; returns the one that stands.

        Workers notice within a second or two; broadcast it on the bus as well, and they notice at once.
        """
        return self.decide(Final(job_id=job_id, status=Status.CANCELLED, at=now(), cancelled_by=by))

    def forget(self, job_id: str) -> None:
        """Remove all objects of a job that has a verdict, but for a bare one without an owner.

        It keeps a worker that has not yet noticed the verdict, or gets an old message, from going on.
        """
        bare = Final(job_id=job_id, status=Status.CANCELLED, at=now()).model_dump_json().encode()
        kept = keys.final(job_id)
        with suppress(ObjectMissing, PreconditionFailed):  # forgotten twice at the same time
            self.store.replace(kept, bare, self.store.get(kept)[1])
        for key in self.present(job_id) - {kept}:
            self.store.delete(key)
            with self._lock:
                self._known.pop(key, None)

    def take_redelivered(self, job_id: str, stage: Stage, worker: str) -> tuple[str, ...]:
        """Note that `worker` took up a delivery that was lost before; returns the others who did and never ended it."""
        return self._change_takers(job_id, stage, lambda takers: (*takers, worker), worker)

    def end_redelivered(self, job_id: str, stage: Stage, worker: str) -> None:
        """`worker` lives: its run of that delivery has ended."""
        self._change_takers(job_id, stage, lambda takers: takers, worker)

    def _change_takers(
        self, job_id: str, stage: Stage, change: Callable[[tuple[str, ...]], tuple[str, ...]], worker: str
    ) -> tuple[str, ...]:
        """Change those without `worker` to what is to be noted; returns those without `worker`."""
        key = keys.takers(job_id, stage)
        while True:
            try:
                data, etag = self.store.get(key)
            except ObjectMissing:
                data, etag = b"[]", ""
            others = tuple(name for name in json.loads(data) if name != worker)
            try:
                self._write(key, json.dumps(change(others)).encode(), etag)
            except (AlreadyExists, PreconditionFailed):
                continue  # another worker did so at the same moment
            return others

    def _write(self, key: str, data: bytes, etag: str) -> None:
        if etag:
            self.store.replace(key, data, etag)
        else:
            self.store.create(key, data)

    def _load(self, key: str, kind: type[WordT]) -> WordT | None:
        with self._reading[hash(key) % len(self._reading)]:  # neighbours want the same words at the same time
            word = self._recall(key, kind) or self._read(key, kind)
            if word is not None:
                self._remember(key, word)
            return word

    def _read(self, key: str, kind: type[WordT]) -> WordT | None:
        try:
            data, _ = self.store.get(key)
        except ObjectMissing:
            return None
        try:
            return kind.model_validate_json(data)
        except ValidationError as error:
            raise RecordUnreadable(
                f"The object {key} is no valid {kind.__name__} of this release.",
                remedy="Upgrade this worker, or delete the job.",
            ) from error

    def _remember(self, key: str, word: Word) -> None:
        with self._lock:
            self._known[key] = word
            while len(self._known) > CACHED_WORDS:
                self._known.popitem(last=False)

    def _recall(self, key: str, kind: type[WordT]) -> WordT | None:
        with self._lock:
            word = self._known.get(key)
        return word if isinstance(word, kind) else None
