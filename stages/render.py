"""Stage 1: a model's frames into the mezzanine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models.contract import ClipSpec, Understood, VideoModel
from stages.contract import Artifact, Cancellation, NeverCancelled, Report, ignore


@dataclass(frozen=True)
class Rendered:
    """The mezzanine and what is in it.

    Attributes:
        mezzanine: "mezzanine.mov".
        width, height: native pixels.
        fps: native frames per second.
        frames: native frame count.
        audio: whether it has a sound track.
        understood: which part of the prompt the model could draw.
    """

    mezzanine: Artifact
    width: int
    height: int
    fps: float
    frames: int
    audio: bool
    understood: Understood


def render(
    model: VideoModel,
    spec: ClipSpec,
    out: Path,
    report: Report = ignore,
    cancellation: Cancellation = NeverCancelled(),
) -> Rendered:
    """Draw the clip into the folder `out` as "mezzanine.mov"."""
    raise NotImplementedError
