"""Runs one stage of one job, whatever brought the message. Knows the store and the bus, but no broker.

    final there?   say so again, stop            } not asked when the message was sent
    record there?  skip the work                 } less than a second ago
    else           fetch inputs, run the stage's function, store its outputs, create the record
    then           emit `finished`, send what follows; publish creates `final` in place of a record

Everything can happen twice: blobs are named by content, records and `final` are created once and adopted by the loser.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog
from structlog.contextvars import bound_contextvars

from config.errors import Fault, T2MError
from models.contract import Detail, Interrupted, Report
from pipeline import keys, metrics, scratch, steps
from pipeline.bus.base import EventPublisher
from pipeline.cancellation import CHECK_INTERVAL_S, Stops, Token
from pipeline.errors import Disconnected, ObjectMissing, OutOfRam, ScratchFull, StoreError, Unexpected, WorkerLost
from pipeline.fitness import Health
from pipeline.hold import MOST_LOST, USUAL, Hold, Rules
from pipeline.jobs import Jobs
from pipeline.progress import Events, Progress
from pipeline.steps import CHAIN, Functions, Made, Records, Work
from pipeline.vocabulary import (
    ArtifactRef,
    EventKind,
    Failure,
    Final,
    JobRequest,
    Stage,
    StageMessage,
    StageRecord,
    Status,
    now,
)
from stages.contract import Artifact

GOES_ON = {"drain": "handed back", "lease": "handed on"}
"""Reasons to stop after which the work goes on elsewhere, and the outcome they make."""
TRANSFERS = 4
"""Blobs moved at a time: enough to hide a store's latency behind the many small files of HLS."""

Send = Callable[[StageMessage, str], None]
"""Queues a message for a job of a model; raises `BrokerError`."""
Watch = Callable[[], AbstractContextManager[Callable[[], None]]]
"""Opened around each run; what it gives is called whenever the work moves (see `pipeline.worker`)."""

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

log = structlog.get_logger(__name__)


def unwatched() -> AbstractContextManager[Callable[[], None]]:
    """A `Watch` for runs that nobody watches."""
    return nullcontext(lambda: None)


class TryAgain(Exception):
    """The run met `error`, which may not come again; the message should be delivered again after a while."""

    def __init__(self, error: T2MError) -> None:
        super().__init__(str(error))
        self.error = error


class Neighbours:
    """Stages that are joined later and run side by side here: the first to finish leaves the rest to the other.

    Only spares requests and messages; neighbours in different processes find each other by their records.
    """

    def __init__(self) -> None:
        self._running: list[tuple[str, Stage]] = []
        self._lock = threading.Lock()

    @contextmanager
    def running(self, job_id: str, stage: Stage) -> Iterator[None]:
        """While a run goes on that will look for its neighbour's record."""
        with self._lock:
            self._running.append((job_id, stage))
        try:
            yield
        finally:
            self.left_to(job_id, stage, None)

    def left_to(self, job_id: str, stage: Stage, neighbour: Stage | None) -> bool:
        """`stage` has its record: will `neighbour`, which still runs here, see both?"""
        with self._lock:
            if (job_id, stage) in self._running:
                self._running.remove((job_id, stage))
            return neighbour is not None and (job_id, neighbour) in self._running


class Runner:
    """Runs stage messages; thread-safe, one per process.

    Args:
        send: queues what follows.
        functions: what the stages do (`pipeline.steps.functions`).
        scratch: folder for working files; each run has its own folder in it and removes it.
        stops: whether to go on; shared with whoever drains the process.
        watch: told that runs move.
        worker: name of this process.
        rules: of checkpoints and leases.

    Attributes:
        unfit: why this process should take no more work; "" while it is well.
    """

    def __init__(
        self,
        jobs: Jobs,
        publisher: EventPublisher,
        send: Send,
        functions: Functions,
        scratch: Path,
        stops: Stops | None = None,
        watch: Watch = unwatched,
        worker: str = "",
        rules: Rules = USUAL,
    ) -> None:
        self._jobs, self._publisher, self._send = jobs, publisher, send
        self._functions, self._scratch, self._watch = functions, scratch, watch
        scratch.mkdir(parents=True, exist_ok=True)
        self.stops = stops or Stops()
        self._neighbours = Neighbours()
        self._transfers = ThreadPoolExecutor(TRANSFERS, thread_name_prefix="transfer")
        self._worker, self._rules = worker, rules
        self._uploads = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._health = Health()
        self._blameless: list[Callable[[], None]] = []
        publisher.on_cancel(self.stops.hurry)

    @property
    def unfit(self) -> str:
        """See above."""
        return self._health.unfit

    def run(
        self, message: StageMessage, retries_left: int = 0, redelivered: bool = False, retried: bool = False
    ) -> None:
        """Handle one message to its end; returns when it may be acknowledged.

        Args:
            retries_left: how often the caller will deliver it again after `TryAgain`.
            retried: this is such a delivery.
            redelivered: it was delivered before, to a worker that died or lost its connection.

        Raises:
            TryAgain: after a fault that may pass; with no retries left, only if the failure could not be noted.
        """
        with bound_contextvars(job_id=message.job_id, trace_id=message.trace_id, stage=str(message.stage)):
            waited = (now() - message.sent_at).total_seconds()
            metrics.QUEUE_WAIT_SECONDS.labels(message.stage).observe(max(0.0, waited))  # clocks of hosts differ
            fresh = not redelivered and not retried and _just_sent(message)
            outcome = self._handle(message, retries_left, redelivered, fresh)
            metrics.STAGES.labels(message.stage, outcome).inc()
            log.info("stage handled", outcome=outcome)

    def fail(self, message: StageMessage, error: T2MError, events: Events | None = None) -> None:
        """Give the job up because of `error`: create `final` as failed, or adopt what is there, and say so."""
        metrics.ERRORS.labels(message.stage, _code(error)).inc()
        failure = Failure(stage=message.stage, code=_code(error), message=error.message, remedy=error.remedy)
        final = Final(job_id=message.job_id, status=Status.FAILED, at=now(), failure=failure)
        events = events or self._events(message)
        self._decide(final, events)
        with suppress(StoreError):
            self._clean_up(message.job_id, self._jobs.present(message.job_id))
        events.flush()

    def spare(self) -> None:
        """This process is about to end whatever still runs: note that no job is to blame for that."""
        for note in list(self._blameless):
            note()

    @contextmanager
    def _noted(self, note: Callable[[], None]) -> Iterator[None]:
        """While the worker's death would be blamed on the job unless `note` was called."""
        self._blameless.append(note)
        try:
            yield
        finally:
            self._blameless.remove(note)

    def _events(self, message: StageMessage) -> Events:
        return Events(self._publisher, message)

    def _handle(self, message: StageMessage, retries_left: int, redelivered: bool, fresh: bool) -> str:
        events = self._events(message)
        try:
            try:
                with self._neighbours.running(message.job_id, message.stage), self._survived(message, redelivered):
                    outcome = self._run(message, events, redelivered, fresh)
            except Interrupted as interrupted:
                outcome = self._interrupted(message, interrupted, events)
            events.flush()
            self._health.did(outcome)
            return outcome
        except Exception as error:  # noqa: BLE001 - whatever a stage throws ends up in `final`, never in a lost message
            return self._failed(message, translated(error), retries_left, events)

    def _run(self, message: StageMessage, events: Events, redelivered: bool, fresh: bool) -> str:
        present: frozenset[str] = frozenset()
        if fresh:
            self._jobs.learn(message.request, message.records)
        else:
            present = self._jobs.present(message.job_id)
        if keys.final(message.job_id) in present and (final := self._jobs.final(message.job_id)):
            self._clean_up(message.job_id, present)
            events.close(final)
            return "decided"
        try:
            request = self._jobs.request(message.job_id)
        except ObjectMissing:
            log.warning("message of a job that is not in the store")
            return "unknown"
        if redelivered:
            self._bound_losses(message)
        if message.stage is Stage.PUBLISH:
            return self._publish(message, request, events)
        done = keys.record(message.job_id, message.stage) in present
        cleaned: Future[None] | None = None
        if done:
            self._clean_up(message.job_id, present)
        elif message.stage is Stage.RENDER:
            cleaned = self._render(message, request, events, redelivered, fresh)
        else:
            self._jobs.commit(self._work(message, request, self._upstream(message), events))
        events.finished()
        self._hand_on(message, request)
        if cleaned is not None:
            cleaned.result()
        return "skipped" if done else "done"

    def _render(
        self, message: StageMessage, request: JobRequest, events: Events, redelivered: bool, fresh: bool
    ) -> Future[None]:
        """Take the render up, or go on with it, until it has its record or goes on elsewhere.

        Returns the end of the cleaning up behind it, to be waited for before the message is acknowledged.
        """
        hold = Hold(self._jobs.store, message, self._worker, self._rules, self.stops, self._uploads)
        try:
            with self._noted(hold.spare):
                resume = None
                if fresh:
                    hold.take_soon()
                else:
                    resume = hold.take(redelivered)
                record = self._work(message, request, {}, events, hold, resume)
                hold.settle()
                self._jobs.commit(record)
        except Interrupted as interrupted:
            if interrupted.reason in GOES_ON:
                hold.hand_on(self._send_on(message))
            elif interrupted.reason == "cancelled":
                hold.clean_up()
            raise
        except Exception:
            hold.let_go()
            raise
        return self._uploads.submit(hold.clean_up)

    def _clean_up(self, job_id: str, present: Iterable[str]) -> None:
        """Remove what renders that were killed have left of a job that needs it no more."""
        with suppress(StoreError):
            for key in present:
                if key.startswith(keys.render_folder(job_id)):
                    self._jobs.store.delete(key)

    def _bound_losses(self, message: StageMessage) -> None:
        """Bound how many workers a job may take down with it. Raises `WorkerLost`.

        A message that was delivered before had a worker that did not end it; those of them that took it up again are
        known by name. Of renders the head knows more: see `Hold.take`.
        """
        metrics.LOST_DELIVERIES.labels(message.stage).inc()
        log.warning("message was delivered before, to a worker that did not end it")
        if message.stage is Stage.RENDER:
            return
        others = self._jobs.take_redelivered(message.job_id, message.stage, self._worker)
        if len(others) + 1 >= MOST_LOST:
            raise WorkerLost(
                f"{len(others) + 1} workers died of the {message.stage}.",
                remedy="See the workers' logs for crashes, hangs and kills for memory.",
            )

    @contextmanager
    def _survived(self, message: StageMessage, redelivered: bool) -> Iterator[None]:
        """Note that this worker lived through a delivery that others may have died of."""
        note = partial(self._note_survival, message, redelivered)
        with self._noted(note):
            try:
                yield
            except Exception:
                note()
                raise
            note()

    def _note_survival(self, message: StageMessage, redelivered: bool) -> None:
        if redelivered and message.stage is not Stage.RENDER:
            with suppress(StoreError):
                self._jobs.end_redelivered(message.job_id, message.stage, self._worker)

    def _publish(self, message: StageMessage, request: JobRequest, events: Events) -> str:
        records = self._upstream(message)
        steps.check_chain(request, records)
        record = self._work(message, request, records, events)
        artifacts = (*steps.published(records), *record.outputs)
        facts = records[Stage.METADATA].facts.get("metadata", {})
        final = Final(job_id=request.job_id, status=Status.COMPLETED, at=now(), artifacts=artifacts, metadata=facts)
        self._decide(final, events, request.model)
        return "done"

    def _upstream(self, message: StageMessage) -> Records:
        """The records a stage reads. Raises `ObjectMissing` if one is not there: nobody sends a message before."""
        found = {}
        for stage in CHAIN[message.stage].reads:
            record = self._jobs.record(message.job_id, stage)
            if record is None:
                raise ObjectMissing(f"The {stage} of job {message.job_id} has left no record.")
            found[stage] = record
        return found

    def _work(
        self,
        message: StageMessage,
        request: JobRequest,
        records: Records,
        events: Events,
        hold: Hold | None = None,
        resume: bytes | None = None,
    ) -> StageRecord:
        """Do what the stage does; returns the record that is to be created."""
        events.emit(EventKind.STARTED, fraction=0.0)
        started = time.monotonic()
        with (
            self._watch() as alive,
            Token(self._jobs, request.job_id, self.stops, alive, hold) as token,
            scratch.folder(self._scratch) as at,
        ):
            inputs = self._fetch(self._inputs(message.stage, request, records), at)
            out = at / "out"
            out.mkdir()
            report = _measured(Progress(events), request.model, alive)
            local = {name: path for name, path, _ in inputs}
            made = self._functions[message.stage](
                Work(request, records, local, out, report, token, hold, resume, events.preview)
            )
            outputs = self._store(made)
            token.check()
        seconds = time.monotonic() - started
        _observe(message.stage, request, seconds)
        read = {name: digest for name, _, digest in inputs} or {"request.json": _digest(request)}
        return StageRecord(
            job_id=request.job_id,
            stage=message.stage,
            inputs=read,
            outputs=outputs,
            facts=made.facts,
            seconds=round(seconds, 3),
            versions=steps.versions(CHAIN[message.stage].packages),
            finished_at=now(),
        )

    def _inputs(self, stage: Stage, request: JobRequest, records: Records) -> list[ArtifactRef]:
        step = CHAIN[stage]
        return [steps.output(records[step.reads[0]], name) for name in step.inputs(request)]

    def _fetch(self, refs: list[ArtifactRef], folder: Path) -> list[tuple[str, Path, str]]:
        """Download blobs; returns (name, local path, digest) of each."""
        fetched = [(ref.name, folder / ref.name, ref.digest) for ref in refs]
        self._side_by_side(lambda ref: self._jobs.store.fetch(ref, folder / ref.name), refs)
        metrics.STORE_BYTES.labels("down").inc(sum(ref.size for ref in refs))
        return fetched

    def _store(self, made: Made) -> tuple[ArtifactRef, ...]:
        def put(artifact: Artifact) -> ArtifactRef:
            return self._jobs.store.put_file(artifact.path, artifact.name, artifact.media_type)

        refs = self._side_by_side(put, list(made.artifacts))
        metrics.STORE_BYTES.labels("up").inc(sum(ref.size for ref in refs))
        return tuple(refs)

    def _side_by_side(self, transfer: Callable[[ItemT], ResultT], items: list[ItemT]) -> list[ResultT]:
        if len(items) == 1:  # most stages move one blob; the thread switch would cost more than it gives
            return [transfer(items[0])]
        return list(self._transfers.map(transfer, items))

    def _hand_on(self, message: StageMessage, request: JobRequest) -> None:
        step = CHAIN[message.stage]
        if step.joins is not None and not self._is_last(message, step.joins):
            return
        for stage in step.follows:
            records = self._jobs.known(message.job_id, CHAIN[stage].reads)
            self._send(_following(message, stage, request, records), request.model)

    def _is_last(self, message: StageMessage, neighbour: Stage) -> bool:
        """Whether the neighbour has its record, too; if not, it will see both when it has written its own."""
        if self._neighbours.left_to(message.job_id, message.stage, neighbour):
            return False
        return self._jobs.has_record(message.job_id, neighbour)

    def _interrupted(self, message: StageMessage, interrupted: Interrupted, events: Events) -> str:
        if interrupted.reason in GOES_ON:
            if message.stage is not Stage.RENDER:
                self._send_on(message)
            return GOES_ON[interrupted.reason]
        if interrupted.reason == "superseded":
            return "superseded"
        final = self._jobs.final(message.job_id)
        if final is not None:
            events.close(final)
        return "stopped"

    def _send_on(self, message: StageMessage) -> StageMessage:
        """Send the message that goes on with this one."""
        again = message.model_copy(update={"hop": message.hop + 1, "sent_at": now(), "request": None, "records": ()})
        self._send(again, self._jobs.request(message.job_id).model)
        return again

    def _failed(self, message: StageMessage, error: T2MError, retries_left: int, events: Events) -> str:
        passing = error.fault is not Fault.PERMANENT
        level = logging.WARNING if passing and retries_left else logging.ERROR
        self._health.failed(message.job_id, error)
        log.log(level, "stage failed", error=str(error), code=_code(error), retries_left=retries_left, exc_info=error)
        if passing and retries_left > 0:
            metrics.ERRORS.labels(message.stage, _code(error)).inc()
            text = f"{error.message} Trying again."
            events.emit(EventKind.LOG, text=text, level="WARNING", data={"code": _code(error)})
            with suppress(T2MError):
                events.flush()
            raise TryAgain(error)
        try:
            self.fail(message, error, events)
        except T2MError as unwritable:
            raise TryAgain(unwritable) from error
        return "failed"

    def _decide(self, final: Final, events: Events, model: str = "") -> None:
        standing = self._jobs.decide(final)
        if standing is final:
            metrics.JOBS.labels(final.status, model or self._model(final.job_id)).inc()
        events.close(standing)

    def _model(self, job_id: str) -> str:
        try:
            return self._jobs.request(job_id).model
        except T2MError:
            return "unknown"


def _following(
    message: StageMessage, stage: Stage, request: JobRequest, records: tuple[StageRecord, ...]
) -> StageMessage:
    return message.model_copy(
        update={"stage": stage, "hop": 0, "sent_at": now(), "request": request, "records": records}
    )


def _just_sent(message: StageMessage) -> bool:
    """Whether a message that comes for the first time comes so soon that a look at the job can show nothing of use.

    A verdict of the last second would be noticed no later than by `Token`, and work that a record could spare took less
    than that second. Whatever was missed, records and `final` are still created only once.
    """
    age_s = (now() - message.sent_at).total_seconds()
    return 0 <= age_s < CHECK_INTERVAL_S and message.epoch == 1 and message.hop == 0


def translated(error: Exception) -> T2MError:
    """`error` as one of ours, itself or with it as the cause; so that its fault, message and remedy are known."""
    if isinstance(error, T2MError):
        return error
    ours = _ours(error)
    ours.__cause__ = error
    return ours


def _ours(error: Exception) -> T2MError:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ScratchFull("No space is left in the scratch folder.", remedy="Free some disk space.")
    if isinstance(error, MemoryError):
        return OutOfRam("The worker ran out of memory.", remedy="Give it more, or ask for a shorter clip.")
    if isinstance(error, (ConnectionError, TimeoutError)):
        return Disconnected(f"A connection broke ({type(error).__name__}).")
    what = type(error).__name__
    return Unexpected(f"An unexpected error stopped the stage ({what}).", remedy="See the worker's log.")


def _code(error: T2MError) -> str:
    """Class name of the error; of the cause where ours only wraps what nobody foresaw."""
    return type(error.__cause__ if isinstance(error, Unexpected) and error.__cause__ else error).__name__


def _digest(request: JobRequest) -> str:
    return f"sha256:{hashlib.sha256(request.model_dump_json().encode()).hexdigest()}"


def _measured(progress: Progress, model: str, alive: Callable[[], None]) -> Report:
    """`progress`, with the time of denoising steps measured on the way."""
    step_at: list[tuple[Detail, float]] = []

    def report(fraction: float, message: str = "", **details: Detail) -> None:
        alive()
        step = details.get("step")
        at = time.monotonic()
        if step is not None and (not step_at or step_at[-1][0] != step):
            if step_at:
                metrics.STEP_SECONDS.labels(model).observe(at - step_at.pop()[1])
            step_at.append((step, at))
        progress(fraction, message, **details)

    return report


def _observe(stage: Stage, request: JobRequest, seconds: float) -> None:
    metrics.STAGE_SECONDS.labels(stage).observe(seconds)
    if stage in (Stage.RENDER, Stage.ENCODE) and seconds > 0:
        metrics.FRAMES_PER_SECOND.labels(stage).observe(request.frames / seconds)
