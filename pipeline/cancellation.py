"""Tells running work when to stop: the job has a verdict, or this worker is going down."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from models.contract import Interrupted
from pipeline.errors import StoreError
from pipeline.jobs import Jobs

CHECK_INTERVAL_S = 1.0
"""Between two looks at the store: a read of about a millisecond, and a second is soon enough."""

log = structlog.get_logger(__name__)


class Stops:
    """What the tokens of one process share: broadcast cancellations and the drain. Thread-safe."""

    def __init__(self) -> None:
        self.draining = threading.Event()
        self._tokens: set[Token] = set()
        self._lock = threading.Lock()

    def hurry(self, job_id: str) -> None:
        """A cancellation of `job_id` was broadcast: its tokens ask the store at their next check."""
        with self._lock:
            for token in self._tokens:
                if token.job_id == job_id:
                    token.hurry()

    def add(self, token: Token) -> None:
        """A run begins."""
        with self._lock:
            self._tokens.add(token)

    def discard(self, token: Token) -> None:
        """It ended."""
        with self._lock:
            self._tokens.discard(token)

    @property
    def job_ids(self) -> tuple[str, ...]:
        """Jobs in hand."""
        with self._lock:
            return tuple(sorted({token.job_id for token in self._tokens}))


class Token:
    """The `Cancellation` of one stage run; registered with `stops` while used as a context manager.

    Args:
        alive: called at each check, for whoever watches that the work moves.
    """

    def __init__(
        self,
        jobs: Jobs,
        job_id: str,
        stops: Stops,
        alive: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.job_id = job_id
        self._jobs, self._stops, self._alive, self._clock = jobs, stops, alive, clock
        self._next_look = clock() + CHECK_INTERVAL_S  # the runner has just looked
        self._decided = False

    def __enter__(self) -> Token:
        self._stops.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._stops.discard(self)

    def hurry(self) -> None:
        """Ask the store at the next check."""
        self._next_look = float("-inf")

    def check(self) -> None:
        """See `Cancellation.check`: reads `final` at most once in `CHECK_INTERVAL_S`.

        Raises:
            Interrupted: "cancelled" when the job has a verdict (whichever), "drain" when this worker is going down.
        """
        self._alive()
        if self._decided or self._look():
            raise Interrupted("cancelled")
        if self._stops.draining.is_set():
            raise Interrupted("drain")

    def _look(self) -> bool:
        if self._clock() < self._next_look:
            return False
        self._next_look = self._clock() + CHECK_INTERVAL_S
        try:
            self._decided = self._jobs.final(self.job_id) is not None
        except StoreError as error:  # a store that is away for a moment must not cost a render of minutes
            log.warning("cancellation not checked", error=str(error))
        return self._decided
