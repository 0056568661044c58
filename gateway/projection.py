"""What the events of a job add up to. Pure: the same events in any order, however often, give the same projection.

Each field is a maximum, a minimum or decided once by `final`, so that merging is commutative and idempotent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from pipeline.vocabulary import ACTIVITY, Event, EventKind, Failure, Final, Stage, Status, percent


@dataclass(frozen=True)
class Projection:
    """The present state of a job as clients see it.

    Attributes:
        stage: of the event with the greatest order; None before the first.
        position: that order, () before the first.
        progress: greatest percentage any event reported, 0 to 100.
        started_at: the earliest start of a stage.
        completed_at: when the verdict was given.
    """

    status: Status = Status.PROCESSING
    stage: Stage | None = None
    position: tuple[int, ...] = ()
    progress: float = 0.0
    started_at: datetime | None = None
    completed_at: datetime | None = None
    failure: Failure | None = None

    @property
    def activity(self) -> str:
        """The word for `stage` in the API: what is done now, or how it ended."""
        return self.status.value if self.status.final else ACTIVITY[self.stage]

    @property
    def percent(self) -> int:
        """Whole percents; 100 only when completed."""
        return 100 if self.status is Status.COMPLETED else min(int(self.progress), 99)


def advance(projection: Projection, event: Event) -> Projection:
    """`projection` with one more event; verdicts come by `conclude`, as only the store knows them."""
    if event.order > projection.position:
        projection = replace(projection, stage=event.stage, position=event.order)
    if event.kind is EventKind.STARTED:
        started = min(projection.started_at or event.at, event.at)
        projection = replace(projection, started_at=started)
    return replace(projection, progress=max(projection.progress, _reached(event)))


def conclude(projection: Projection, final: Final) -> Projection:
    """`projection` with the verdict; a job that has one keeps it."""
    if projection.status.final:
        return projection
    return replace(projection, status=final.status, completed_at=final.at, failure=final.failure)


def _reached(event: Event) -> float:
    if event.kind is EventKind.FINISHED:
        return percent(event.stage, 1.0)
    return 0.0 if event.fraction is None else percent(event.stage, event.fraction)
