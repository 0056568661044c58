"""A store, a bus and a runner for unit tests; all real but the broker, whose messages are kept in a list."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path

from pipeline.cancellation import Stops
from pipeline.errors import BrokerError
from pipeline.hold import USUAL, Rules
from pipeline.jobs import Jobs
from pipeline.runner import Runner
from pipeline.steps import Functions
from pipeline.store.local import FileStore
from pipeline.vocabulary import Event, EventKind, Heartbeat, JobRequest, Stage, StageMessage, now
from tests.small_stages import SMALL


class Recorder:
    """An `EventPublisher` that keeps what it is given."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.listeners: list[Callable[[str], None]] = []
        self.broken = False

    def publish(self, event: Event | Heartbeat) -> None:
        if self.broken:
            raise BrokerError("The bus is away.")
        assert isinstance(event, Event)
        self.events.append(event)

    def publish_soon(self, event: Event | Heartbeat) -> Future[None]:
        done: Future[None] = Future()
        try:
            self.publish(event)
        except BrokerError as error:
            done.set_exception(error)
        else:
            done.set_result(None)
        return done

    def on_cancel(self, listener: Callable[[str], None]) -> None:
        self.listeners.append(listener)

    def close(self) -> None: ...

    def kinds(self, stage: Stage | None = None) -> list[EventKind]:
        return [e.kind for e in self.events if stage in (None, e.stage) and e.kind is not EventKind.PROGRESS]


class Bench:
    """One runner over a store in `folder`; `sent` is what it queued, in the order of the stages."""

    def __init__(self, folder: Path, functions: Functions = SMALL) -> None:
        self.store = FileStore(folder / "store")
        self.jobs = Jobs(self.store)
        self.bus = Recorder()
        self.stops = Stops()
        self.sent: list[StageMessage] = []
        self.scratch = folder / "scratch"
        self._lock = threading.Lock()
        self.runner = self.another(functions)

    def another(self, functions: Functions, worker: str = "one", rules: Rules = USUAL) -> Runner:
        """A second worker on the same store, with stops of its own; it is not drained."""
        stops = self.stops if not self.stops.draining else Stops()
        return Runner(Jobs(self.store), self.bus, self.send, functions, self.scratch, stops, worker=worker, rules=rules)

    def send(self, message: StageMessage, model: str) -> None:
        with self._lock:
            self.sent.append(message)
            self.sent.sort(key=lambda sent: list(Stage).index(sent.stage))

    def accept(self, request: JobRequest) -> JobRequest:
        self.jobs.accept(request)
        return request

    def run_all(self, request: JobRequest) -> None:
        """The whole chain, one message after the other."""
        self.sent.append(message(request))
        while self.sent:
            self.runner.run(self.sent.pop(0))


def message(request: JobRequest, stage: Stage = Stage.RENDER, age_s: float = 5.0) -> StageMessage:
    """A message that was sent `age_s` ago; a younger one than a second is taken for the first of its kind."""
    sent_at = now() - timedelta(seconds=age_s)
    return StageMessage(job_id=request.job_id, stage=stage, trace_id=request.trace_id, sent_at=sent_at)
