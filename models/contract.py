"""What a stage needs of a model, and what long work owes its caller. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from config.catalogue import ModelEntry

Detail = int | float | str


class Report(Protocol):
    """Told how far long work has come.

    Args:
        fraction: 0 to 1 of this work, never falling.
        message: one line for people, "" when the fraction says it all.
        details: measured figures, such as `step=3, steps=24`.
    """

    def __call__(self, fraction: float, message: str = "", **details: Detail) -> None:
        """Must return soon: the work waits."""


class Cancellation(Protocol):
    """Asked often by long work (every denoising step, every frame chunk, at least once a second)."""

    def check(self) -> None:
        """Return if the work is still wanted.

        Raises:
            Interrupted: stop now, leave nothing behind.
        """


class Interrupted(Exception):
    """The work is no longer wanted here. `reason` is "cancelled" (for good) or "drain" (it goes on elsewhere)."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NeverCancelled:
    """A `Cancellation` for notebooks, scripts and tests."""

    def check(self) -> None:
        """Never raises."""


def ignore(fraction: float, message: str = "", **details: Detail) -> None:
    """A `Report` that nobody reads."""


@dataclass(frozen=True)
class ClipSpec:
    """What a model is to draw, in its own native terms.

    Attributes:
        width, height: native size of the drawn picture in pixels, after the model's crop (`ModelEntry.sizes`).
        frames: native frames wanted at `ModelEntry.fps`; the model draws its next valid count and trims.
        seed: of the initial latents; the same seed and spec give the same frames on the same machine.
        steps: denoising steps per window.
        guidance: classifier-free guidance scale; 1 switches it off.
    """

    prompt: str
    width: int
    height: int
    frames: int
    seed: int
    steps: int
    guidance: float
    negative_prompt: str = ""


@dataclass(frozen=True)
class Chunk:
    """Some consecutive decoded frames.

    Attributes:
        frames: uint8 RGB, shape (n, height, width, 3), n ≥ 1.
        audio: float32 PCM in −1…1, shape (samples, channels), that plays with these frames; None for silent models.
    """

    frames: NDArray[np.uint8]
    audio: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Understood:
    """Which part of a prompt the model can draw. Models of the open world understand all of it.

    Attributes:
        complete: nothing of the prompt was left out.
        text: the prompt as the model reads it (nearest known words); "" when nothing was understood.
        ignored: words that changed nothing.
    """

    complete: bool
    text: str
    ignored: tuple[str, ...] = field(default=())


class VideoModel(Protocol):
    """A loaded model. One per process and catalogue row; not safe for concurrent calls of `generate`."""

    @property
    def entry(self) -> ModelEntry:
        """The catalogue row."""

    @property
    def audio_sample_rate(self) -> int | None:
        """Hz of `Chunk.audio`, None for silent models."""

    def understand(self, prompt: str) -> Understood:
        """What of `prompt` the model can draw."""

    def generate(
        self, spec: ClipSpec, report: Report = ignore, cancellation: Cancellation = NeverCancelled()
    ) -> Iterator[Chunk]:
        """Draw a clip; yields exactly `spec.frames` frames in order, in chunks, as they are decoded.

        Denoising of the next window goes on while the caller consumes chunks. `report` gets the fraction of all
        denoising steps and decoding done, with details `step`, `steps`, `window`, `windows`.

        Raises:
            ModelError: see `models.errors`.
            Interrupted: as `cancellation` asked; within one denoising step.
        """
