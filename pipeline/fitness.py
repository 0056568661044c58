"""Whether a worker process should go on taking work."""

from __future__ import annotations

from config.errors import T2MError
from models.errors import NotFinite, UnsupportedShape
from pipeline.errors import (
    BrokerError,
    ContentRefused,
    InvalidRequest,
    MessageRefused,
    ObjectMissing,
    RecordsBroken,
    RecordUnreadable,
    SafetyAway,
    StoreError,
    WorkerLost,
)

MOST_FAILURES = 3
"""Jobs in a row that may fail at one worker."""

BLAMELESS = (
    UnsupportedShape,
    NotFinite,
    BrokerError,
    ContentRefused,
    InvalidRequest,
    MessageRefused,
    ObjectMissing,
    RecordsBroken,
    RecordUnreadable,
    SafetyAway,
    StoreError,
    WorkerLost,
)
"""Errors of the job or of another part: every worker would meet them."""


class Health:
    """Counts jobs that failed here one after another.

    Attributes:
        unfit: why this worker should take itself out; "" while it is well.
    """

    def __init__(self) -> None:
        self._failed: list[str] = []
        self.unfit = ""

    def did(self, outcome: str) -> None:
        """A run ended without an error."""
        if outcome == "done":
            self._failed.clear()

    def failed(self, job_id: str, error: T2MError) -> None:
        """A run failed; several of one job count once."""
        if isinstance(error, BLAMELESS) or job_id in self._failed:
            return
        self._failed.append(job_id)
        if len(self._failed) >= MOST_FAILURES:
            self.unfit = f"{MOST_FAILURES} jobs failed here one after another, the last one with: {error}"
