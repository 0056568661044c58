"""Stage 3b: `metadata.json`, measured on the outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from models.contract import Understood
from stages.contract import Artifact, Cancellation, NeverCancelled, Report, ignore


@dataclass(frozen=True)
class Generation:
    """How the clip was drawn; becomes `generation` of the metadata.

    Attributes:
        created_at: when the job was accepted, with a time zone.
        native_width, native_height: pixels the model really drew.
        native_fps: frames per second the model really drew.
        native_frames: number of frames the model really drew.
    """

    prompt: str
    negative_prompt: str
    model: str
    model_revision: str
    seed: int
    steps: int
    guidance: float
    created_at: datetime
    native_width: int
    native_height: int
    native_fps: float
    native_frames: int
    understood: Understood


def metadata(
    job_id: str,
    renditions: Mapping[str, Path],
    generation: Generation,
    out: Path,
    report: Report = ignore,
    cancellation: Cancellation = NeverCancelled(),
) -> tuple[Artifact, dict[str, Any]]:
    """Write "metadata.json" into the folder `out`; returns it and its content.

    Args:
        renditions: path of each rung's MP4 by rung name ("720p", "1080p").
    """
    raise NotImplementedError
