"""Tells running work when to stop: the job has a verdict, or this worker is going down."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

import structlog

from models.contract import Interrupted
from pipeline.errors import StoreError
from pipeline.jobs import Jobs

CHECK_INTERVAL_S = 1.0
"""Between two looks at the store: a read of about a millisecond, and a second is soon enough."""

log = structlog.get_logger(__name__)


class Denoising(Protocol):
    """A render that can leave a checkpoint at the end of a step."""

    @property
    def denoising(self) -> bool:
        """Steps are missing."""

    def fits(self, deadline: float) -> bool:
        """Whether it can leave one by then, a time of the token's clock."""


class Stops:
    """What the tokens of one process share: broadcast cancellations and the drain. Thread-safe.

    Attributes:
        finish_by: time (of `clock`) until which running work may still finish; None while no drain was asked for.
        leave_by: time at which the last hand-over has to be done.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.finish_by: float | None = None
        self.leave_by = float("inf")
        self._tokens: set[Token] = set()
        self._lock = threading.Lock()

    def drain(self, finish_s: float = 0.0, leave_s: float = 0.0) -> None:
        """This worker is going down: renders leave a checkpoint soon, other work may go on for `finish_s`.

        Args:
            leave_s: until what a render has to have left; one whose step takes longer leaves at once.
        """
        if self.finish_by is None:  # the first one counts
            self.leave_by = self.clock() + leave_s
            self.finish_by = self.clock() + finish_s

    @property
    def draining(self) -> bool:
        """This worker is going down."""
        return self.finish_by is not None

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
        render: the work, if it can leave checkpoints.
    """

    def __init__(
        self,
        jobs: Jobs,
        job_id: str,
        stops: Stops,
        alive: Callable[[], None] = lambda: None,
        render: Denoising | None = None,
    ) -> None:
        self.job_id = job_id
        self._jobs, self._stops, self._alive, self._clock, self._render = jobs, stops, alive, stops.clock, render
        self._next_look = self._clock() + CHECK_INTERVAL_S  # the runner has just looked
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
        if self._must_leave():
            raise Interrupted("drain")

    def _must_leave(self) -> bool:
        """For a drain: at once if the time given is over, or will be before a render could leave a checkpoint."""
        if self._stops.finish_by is None:
            return False
        if self._render is not None and self._render.denoising:
            return not self._render.fits(self._stops.leave_by)
        return self._clock() >= self._stops.finish_by

    def _look(self) -> bool:
        if self._clock() < self._next_look:
            return False
        self._next_look = self._clock() + CHECK_INTERVAL_S
        try:
            self._decided = self._jobs.final(self.job_id) is not None
        except StoreError as error:  # a store that is away for a moment must not cost a render of minutes
            log.warning("cancellation not checked", error=str(error))
        return self._decided
