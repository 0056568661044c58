"""How far a clip has come, from steps and frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from models.contract import Report

T = TypeVar("T")

DENOISING = 0.9
"""Share of denoising in the progress of a clip, decoding fills the rest. Denoising takes most of the time of every
model, and it works ahead, so the last frames are all that is left when it is done."""


@dataclass(frozen=True)
class StepDone:
    """Step `step` (from 1) of window `window` (from 0) is done."""

    window: int
    step: int


class Progress:
    """Turns done steps and decoded frames into one fraction that never falls, and reports it."""

    def __init__(self, report: Report, *, windows: int, steps: int, frames: int) -> None:
        self._report = report
        self._windows = windows
        self._steps = steps
        self._frames = frames
        self._now = StepDone(0, 0)
        self._decoded = 0

    def steps_of(self, messages: Iterator[StepDone | T]) -> Iterator[T]:
        """Report every `StepDone` of `messages`; yield the others."""
        for message in messages:
            if isinstance(message, StepDone):
                self._now = message
                self._tell()
            else:
                yield message

    def decoded(self, frames: int) -> None:
        """Report `frames` more decoded frames."""
        self._decoded += frames
        self._tell()

    def _tell(self) -> None:
        denoised = (self._now.window * self._steps + self._now.step) / (self._windows * self._steps)
        self._report(
            DENOISING * denoised + (1 - DENOISING) * self._decoded / self._frames,
            step=self._now.step,
            steps=self._steps,
            window=self._now.window + 1,
            windows=self._windows,
            frames=self._decoded,
        )
