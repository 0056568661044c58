"""A stage's progress as events: ordered, throttled, with an ETA."""

from __future__ import annotations

import base64
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Literal

import structlog

from models.contract import Detail
from pipeline.bus.base import EventPublisher
from pipeline.errors import BrokerError
from pipeline.vocabulary import Event, EventKind, Final, StageMessage, Status, new_id, now

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]

MIN_INTERVAL_S = 0.25
"""Between two progress events of a stage: four a second are smooth to the eye and cheap to store."""

CLOSING = {
    Status.COMPLETED: EventKind.COMPLETED,
    Status.FAILED: EventKind.FAILED,
    Status.CANCELLED: EventKind.CANCELLED,
}

PASSING = {EventKind.PROGRESS, EventKind.PREVIEW}
"""A later one makes up for what was lost of these."""

log = structlog.get_logger(__name__)


class Events:
    """The events of one run of one stage, published in their order while the work goes on. Thread-safe.

    A slow bus so neither stalls a GPU nor adds its confirms to the time of a job; `flush` waits for them in the end.
    """

    def __init__(self, publisher: EventPublisher, message: StageMessage) -> None:
        self._publisher, self._message = publisher, message
        self._n = 0
        self._under_way: deque[tuple[Event, Future[None]]] = deque()
        self._lock = threading.Lock()

    def emit(
        self,
        kind: EventKind,
        fraction: float | None = None,
        text: str = "",
        level: Level = "INFO",
        data: Mapping[str, Detail] | None = None,
    ) -> None:
        """Publish one event soon."""
        with self._lock:
            event = Event(
                id=new_id("event"),
                job_id=self._message.job_id,
                kind=kind,
                stage=self._message.stage,
                epoch=self._message.epoch,
                hop=self._message.hop,
                n=self._n,
                at=now(),
                fraction=fraction,
                message=text,
                level=level,
                data=dict(data or {}),
            )
            self._n += 1
            while self._under_way and _arrived(self._under_way[0][1]):
                self._under_way.popleft()
            self._under_way.append((event, self._publisher.publish_soon(event)))

    def flush(self) -> None:
        """Wait until all events are on the bus. Raises `BrokerError` if one that matters did not get there."""
        lost: BrokerError | None = None
        while self._under_way:
            event, published = self._under_way.popleft()
            try:
                published.result()
            except BrokerError as error:
                log.warning("event not published", kind=str(event.kind), error=str(error))
                if event.kind not in PASSING:
                    lost = error
        if lost is not None:
            raise lost

    @property
    def idle(self) -> bool:
        """The newest event is on the bus; so are those before it, or they are lost."""
        with self._lock:
            return not self._under_way or self._under_way[-1][1].done()

    def preview(self, jpeg: bytes, at_s: float) -> None:
        """See `Show`."""
        self.emit(EventKind.PREVIEW, data={"jpeg": base64.b64encode(jpeg).decode(), "at_s": round(at_s, 3)})

    def finished(self) -> None:
        """Say that the stage is done."""
        self.emit(EventKind.FINISHED, fraction=1.0)

    def close(self, final: Final) -> None:
        """Say how the job ended."""
        failure = final.failure
        if failure is None:
            self.emit(CLOSING[final.status])
        else:
            text = f"{failure.message} {failure.remedy}".rstrip()
            self.emit(CLOSING[final.status], text=text, level="ERROR", data={"code": failure.code})


def _arrived(published: Future[None]) -> bool:
    return published.done() and published.exception() is None


class Progress:
    """A `Report` that publishes at most one event in `MIN_INTERVAL_S`, and the remaining seconds as `eta_s`.

    The fraction never falls. The ETA comes from the rate since the first report, so loading a model does not spoil it.
    A message held back by the throttle goes out with the next event. While the bus is slow, progress is left out.
    """

    def __init__(self, events: Events, clock: Callable[[], float] = time.monotonic) -> None:
        self._events, self._clock = events, clock
        self._lock = threading.Lock()
        self._start: tuple[float, float] | None = None
        self._fraction = 0.0
        self._message = ""
        self._published_at = float("-inf")

    def __call__(self, fraction: float, message: str = "", **details: Detail) -> None:
        """See `Report`."""
        with self._lock:
            at = self._clock()
            self._fraction = max(self._fraction, min(fraction, 1.0))
            self._message = message or self._message
            self._start = self._start or (at, self._fraction)
            if at - self._published_at < MIN_INTERVAL_S or not self._events.idle:
                return
            self._published_at = at
            text, self._message = self._message, ""
            data = {**details, **self._eta(at)}
            self._events.emit(EventKind.PROGRESS, fraction=self._fraction, text=text, data=data)

    def _eta(self, at: float) -> dict[str, float]:
        started_at, first = self._start or (at, self._fraction)
        done = self._fraction - first
        return {"eta_s": round((at - started_at) * (1 - self._fraction) / done, 1)} if done > 0 else {}
