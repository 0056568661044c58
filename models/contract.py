"""What a stage needs of a model, and what long work owes its caller. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    """The work is no longer wanted here.

    Attributes:
        reason: "cancelled" (for good), "superseded" (another worker has it), "lease" (this worker had it long enough)
            or "drain" (this worker is going down); after the last two it goes on elsewhere.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NeverCancelled:
    """A `Cancellation` for notebooks, scripts and tests."""

    def check(self) -> None:
        """Never raises."""


class Snapshot(Protocol):
    """All that is needed to go on with a clip in another process."""

    @property
    def window(self) -> int:
        """The window in hand, from 0."""

    @property
    def step(self) -> int:
        """Denoising steps done in it."""

    @property
    def exact(self) -> bool:
        """Whether the whole clip will have the bits of one drawn in a single run; not so after a change of hardware."""

    def to_bytes(self) -> bytes:
        """For `VideoModel.restore`; may take long, so not for the thread that denoises."""


Take = Callable[[], Snapshot]
"""Copies the state of a clip between two steps; good only while `Checkpoints.offer` runs."""


class Checkpoints(Protocol):
    """Keeps snapshots of a clip while it is drawn."""

    def offer(self, done: int, total: int, take: Take) -> None:
        """Called after each denoising step in the thread that denoises, which waits; may take a snapshot.

        Args:
            done: steps done in all windows, of `total`.

        Raises:
            Interrupted: no further step is wanted here; `VideoModel.generate` ends with it.
        """


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
    """Which part of a prompt the model can draw. Models of the open world read as much as their text encoder takes.

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

    def restore(self, data: bytes, spec: ClipSpec) -> Snapshot:
        """The snapshot that `Snapshot.to_bytes` gave for this very clip, in whatever process.

        Raises:
            SnapshotRefused: it is of another release, model, shape or seed; the clip has to start over.
        """

    def generate(
        self,
        spec: ClipSpec,
        report: Report = ignore,
        cancellation: Cancellation = NeverCancelled(),
        checkpoints: Checkpoints | None = None,
        resume: Snapshot | None = None,
    ) -> Iterator[Chunk]:
        """Draw a clip; yields exactly `spec.frames` frames in order, in chunks, as they are decoded.

        Denoising of the next window goes on while the caller consumes chunks. `report` gets the fraction of all
        denoising steps and decoding done, with details `step`, `steps`, `window`, `windows`.

        Args:
            resume: what `restore` gave: where to go on. The steps before are not repeated, all frames are decoded.

        Raises:
            ModelError: see `models.errors`.
            Interrupted: as `cancellation` or `checkpoints` asked; within one denoising step. For a drain that
                `cancellation` asked for, the step in hand is not waited for: the process is about to end.
        """
