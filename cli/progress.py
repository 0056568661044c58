"""How a running job looks: a bar per stage on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as RemainingColumn

from pipeline.vocabulary import ACTIVITY, Event, EventKind, Stage

LINE_EVERY = 0.25
"""Share of a stage after which another plain line is written."""


class Display(Protocol):
    """Shows the events of one job."""

    def show(self, event: Event) -> None:
        """Take one event in."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def display(console: Console) -> Display:
    """Bars on a terminal, else lines."""
    return Bars(console) if console.is_terminal else Lines(lambda text: console.print(text, markup=False))


def fraction_of(event: Event) -> float | None:
    """Share of its stage that is done after `event`; None if it does not say."""
    return 1.0 if event.kind in (EventKind.FINISHED, EventKind.COMPLETED) else event.fraction


class Bars:
    """A live bar per stage with percentage, elapsed time and ETA."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<11}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            RemainingColumn(),
            console=console,
        )
        self._tasks: dict[Stage, TaskID] = {}

    def show(self, event: Event) -> None:
        """See `Display.show`."""
        if event.kind is EventKind.STARTED:
            self._task(event.stage)
        if (fraction := fraction_of(event)) is not None:
            self._progress.update(self._task(event.stage), completed=fraction)

    def _task(self, stage: Stage) -> TaskID:
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(ACTIVITY[stage], total=1.0)
        return self._tasks[stage]

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


class Lines:
    """A line when a stage begins, each quarter of it, and when it is done.

    Args:
        write: takes one line.
        clock: seconds.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._started: dict[Stage, float] = {}
        self._told: dict[Stage, float] = {}

    def show(self, event: Event) -> None:
        """See `Display.show`."""
        at = self._clock()
        started = self._started.setdefault(event.stage, at)
        fraction = fraction_of(event)
        if fraction is None or (0 < fraction < self._told.get(event.stage, 0.0) + LINE_EVERY and fraction < 1):
            return
        if fraction <= self._told.get(event.stage, -1.0):
            return
        self._told[event.stage] = fraction
        self._write(self._line(event.stage, fraction, at - started))

    def _line(self, stage: Stage, fraction: float, elapsed_s: float) -> str:
        rest = f", ETA {elapsed_s * (1 - fraction) / fraction:.0f} s" if 0 < fraction < 1 else ""
        return f"{ACTIVITY[stage]}: {fraction:.0%} after {elapsed_s:.0f} s{rest}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None
