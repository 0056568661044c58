"""One worker's hold on a render: the head in the store that says who has it, and the checkpoints it moves along.

The head (`jobs/<id>/render/head`) is the fencing token. Taking a render up and each checkpoint change it by a
conditional write; whoever is refused has lost the render to another worker, and stops within a step. Nobody gets
further ahead of the last checkpoint that is kept than an interval: then it waits for the store. So two live holders of
one render repeat no more than that. As checkpoints are sent a step before the interval ends, there is mostly nothing to
wait for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass, replace
from uuid import uuid4

import structlog
from pydantic import ValidationError

from models.contract import Interrupted, Snapshot, Take
from pipeline import keys, metrics
from pipeline.cancellation import Stops
from pipeline.errors import AlreadyExists, ObjectMissing, PreconditionFailed, StoreError, WorkerLost
from pipeline.store.base import ObjectStore
from pipeline.vocabulary import Head, StageMessage

MOST_LOST = 3
"""Workers that may die of one stage of a job without any progress; then the job is at fault."""
NAMELESS = "a worker that died at once"
MARGIN_S = 1.0
"""What a hand-over costs besides the step and the upload."""
SNAPSHOT = "application/octet-stream"
TRIES = 6
"""Before a render whose interval is over and that can keep no checkpoint goes on for a step, at its own risk.

A store that cannot be reached is tried for 20 s each time: two minutes, by which RabbitMQ gives lost workers up.
"""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Rules:
    """When a render is checkpointed and handed on.

    Attributes:
        every_s, steps: an interval is over when so much time has passed and so many steps are done. No more than what
            is done by then is lost with a worker, or done by two.
        lease_s: longest time one message is held, up to the end of a step.
    """

    every_s: float = 30.0
    steps: int = 2
    lease_s: float = 600.0


USUAL = Rules()


@dataclass(frozen=True)
class Mark:
    """When so many steps were done."""

    at: float
    done: int = 0


class Hold:
    """The `Checkpoints` of one render run. `offer` is called by the thread that denoises, the rest by the runner's.

    Args:
        worker: name of this process; a job that takes several down is told by it.
        uploads: where checkpoints are sent from while the render goes on.
    """

    def __init__(
        self,
        store: ObjectStore,
        message: StageMessage,
        worker: str,
        rules: Rules,
        stops: Stops,
        uploads: Executor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._message, self._worker, self._rules = store, message, worker, rules
        self._stops, self._uploads, self._clock = stops, uploads, clock
        self._key = keys.head(message.job_id)
        self._name = f"{worker}/{uuid4().hex}"
        self._head: Head | None = None
        self._etag = ""
        self._upload: Future[None] | None = None
        self._upload_s = 0.0
        self._taken_at = self._stepped_at = clock()
        self._kept = self._offered = Mark(self._taken_at)
        self._step_s = 0.0
        self._denoising = False
        self._taken_up = False
        self._alone = False  # nobody had it before, and nothing but the head was written
        self._turn = threading.Lock()  # one thread at a time changes the head
        self.lost = False
        """Another worker has the render."""

    def take(self, redelivered: bool = False) -> bytes | None:
        """Take the render up; returns the snapshot to go on from, None at the beginning.

        Args:
            redelivered: another worker had the message before; if it died before it made the head, it counts as well.

        Raises:
            Interrupted: "superseded": a later message of this job has it.
            WorkerLost: too many workers died of it without getting on.
            StoreError: the store is away.
        """
        with self._turn:
            head = self._take(redelivered)
        return self._checkpoint(head)

    def _take(self, redelivered: bool) -> Head:
        standing: Head | None = None  # most renders are taken up once: trying to be the first asks as well
        etag = ""
        while True:
            head = self._taken(standing, redelivered)
            try:
                self._etag = self._write(head, etag)
            except (AlreadyExists, PreconditionFailed, ObjectMissing):
                standing, etag = self._read()
                continue
            self._head, self._taken_up, self._alone = head, True, standing is None
            if head.done > self._offered.done:
                self._kept = self._offered = replace(self._offered, done=head.done)
            return head

    def take_soon(self) -> None:
        """Begin to `take` a render that has just been sent for the first time; its outcome is seen by `offer`."""
        self._upload = self._uploads.submit(lambda: (self.take(), None)[1])

    def offer(self, done: int, total: int, take: Take) -> None:
        """See `Checkpoints.offer`."""
        now = self._clock()
        self._step_s = now - self._stepped_at
        self._denoising = done < total
        if self._upload is not None and self._upload.done():
            self._wait()
        for _ in range(TRIES):
            if self.lost:
                break
            if self._denoising and (reason := self._leaving()):
                self._leave(reason, take(), done)
            if self._upload is None and self._due(now, done):
                snapshot, self._offered = take(), Mark(now, done)
                self._upload = self._uploads.submit(self._advance, snapshot, done)
            if self._upload is None or not self._passed(self._kept, now, done):
                break
            self._wait()
        self._stepped_at = self._clock()
        if self.lost:
            raise Interrupted("superseded")

    @property
    def denoising(self) -> bool:
        """Some steps are done and some are missing, so `offer` will be called again."""
        return self._denoising

    def fits(self, deadline: float) -> bool:
        """Whether the step in hand, and the upload after it, will be done by then."""
        now = self._clock()
        return now + max(0.0, self._stepped_at + self._step_s - now) + self._upload_s + MARGIN_S < deadline

    def settle(self) -> None:
        """Wait for what is under way. Raises `Interrupted` if the render was lost meanwhile, `WorkerLost`."""
        if self._upload is not None:
            self._wait()
        if self.lost:
            raise Interrupted("superseded")

    def hand_on(self, message: StageMessage) -> None:
        """Let only `message`, which has been sent, and later ones take the render up."""
        self._change(
            lambda head: head.model_copy(
                update={"epoch": message.epoch, "hop": message.hop, "holder": "", "takers": self._others(head)}
            )
        )

    def let_go(self) -> None:
        """This worker lives: whatever ended its run did not kill it."""
        self._change(lambda head: head.model_copy(update={"holder": "", "takers": self._others(head)}))

    def spare(self) -> None:
        """Whoever takes the render up next must not count this worker as lost; until then it goes on. Any thread."""
        with self._turn:
            if self._head is None or self._head.holder != self._name or self.lost:
                return
            head = self._head.model_copy(update={"takers": self._others(self._head)})
            try:
                self._etag = self._write(head, self._etag)
                self._head = head
            except (PreconditionFailed, ObjectMissing):
                return  # the next checkpoint will find out
            except StoreError:
                self._head = None  # to be read again: nobody knows which it is

    def clean_up(self) -> None:
        """The render is over: remove head and checkpoints, also those that others left behind."""
        with suppress(Interrupted, WorkerLost):
            self.settle()
        with suppress(StoreError):
            folder = keys.render_folder(self._message.job_id)
            found = [self._key] if self._alone else [info.key for info in self._store.list(folder)]
            for key in found:
                self._store.delete(key)

    # The head

    def _read(self) -> tuple[Head | None, str]:
        try:
            data, etag = self._store.get(self._key)
        except ObjectMissing:
            return None, ""
        try:
            return Head.model_validate_json(data), etag
        except ValidationError:
            log.warning("head of another release, the render starts over")
            return None, etag

    def _taken(self, standing: Head | None, redelivered: bool) -> Head:
        """The head with this worker as its holder."""
        message = self._message
        mine = {"epoch": message.epoch, "hop": message.hop, "holder": self._name}
        if standing is None:
            before = (NAMELESS,) if redelivered else ()
            return Head(job_id=message.job_id, takers=(*before, self._worker), **mine)
        if (message.epoch, message.hop) < (standing.epoch, standing.hop):
            raise Interrupted("superseded")
        others = self._others(standing)
        if len(others) >= MOST_LOST:
            raise WorkerLost(
                f"{len(others)} workers died of this render without getting on.",
                remedy="See the workers' logs for crashes, hangs and kills for memory.",
            )
        return standing.model_copy(update={**mine, "takers": (*others, self._worker)})

    def _others(self, head: Head) -> tuple[str, ...]:
        return tuple(taker for taker in head.takers if taker != self._worker)

    def _write(self, head: Head, etag: str) -> str:
        data = head.model_dump_json().encode()
        return self._store.replace(self._key, data, etag) if etag else self._store.create(self._key, data)

    def _change(self, change: Callable[[Head], Head]) -> None:
        """Change the head if it is still this worker's; if not, or if the store is away, somebody else sees to it."""
        with suppress(Interrupted, WorkerLost):
            self.settle()
        with self._turn, suppress(AlreadyExists, PreconditionFailed, ObjectMissing, StoreError):
            if self._head is not None and not self.lost:
                self._write(change(self._head), self._etag)

    def _checkpoint(self, head: Head) -> bytes | None:
        if head.checkpoint is None:
            return None
        try:
            return self._store.get(head.checkpoint)[0]
        except ObjectMissing:
            log.warning("checkpoint is gone, the render starts over")
            return None

    # Checkpoints

    def _passed(self, since: Mark, now: float, done: int) -> bool:
        """Whether an interval has."""
        return now - since.at >= self._rules.every_s and done - since.done >= self._rules.steps

    def _due(self, now: float, done: int) -> bool:
        """Whether the interval will be over by the time the next step is done and an upload as long as the last."""
        return self._passed(self._offered, now + max(self._step_s, self._upload_s), done + 1)

    def _leaving(self) -> str:
        if self._stops.draining:
            return "drain"
        return "lease" if self._clock() - self._taken_at >= self._rules.lease_s else ""

    def _leave(self, reason: str, snapshot: Snapshot, done: int) -> None:
        """Keep a last checkpoint and stop.

        Raises:
            Interrupted: always, but for
            StoreError: when a lease ends and the checkpoint could not be kept; handing on would repeat the steps.
        """
        self._wait()
        if not self.lost:
            try:
                self._advance(snapshot, done)
            except Interrupted:
                self.lost = True
            except StoreError as error:
                if reason == "lease":
                    raise
                log.warning("handed back from the checkpoint before", error=str(error))
        raise Interrupted("superseded" if self.lost else reason)

    def _advance(self, snapshot: Snapshot, done: int) -> None:
        """Store a snapshot and move the head to it; a refusal means that the render is lost."""
        with self._turn:
            self._move(snapshot, done)

    def _move(self, snapshot: Snapshot, done: int) -> None:
        began = self._clock()
        if not self._taken_up:
            self._take(redelivered=False)
        elif self._head is None:  # a write of unknown outcome
            self._head, self._etag = self._read()
        if self._head is None or self._head.holder != self._name:
            self.lost = True
            return
        self._alone = False
        before, key = self._head, keys.checkpoint(self._message.job_id, f"{done}-{uuid4().hex}")
        self._store.create(key, snapshot.to_bytes(), SNAPSHOT)
        head = before.model_copy(update={"checkpoint": key, "done": done, "takers": (self._worker,)})
        try:
            self._etag = self._write(head, self._etag)
        except (PreconditionFailed, ObjectMissing):
            self.lost = True
            self._remove(key)
            return
        except StoreError:
            self._head = None
            raise
        self._head = head
        if before.checkpoint:
            self._remove(before.checkpoint)
        self._upload_s = self._clock() - began
        metrics.CHECKPOINTS.inc()
        log.info("checkpoint kept", job_id=head.job_id, done=done, seconds=round(self._upload_s, 3))

    def _remove(self, key: str) -> None:
        with suppress(StoreError):
            self._store.delete(key)

    def _wait(self) -> None:
        """The end of what is under way; a checkpoint that a store was away for is due again."""
        upload, self._upload = self._upload, None
        if upload is None:
            return
        try:
            upload.result()
            self._kept = self._offered
        except Interrupted:
            self.lost = True
        except StoreError as error:
            self._offered = self._kept
            log.warning("checkpoint not kept", error=str(error))
