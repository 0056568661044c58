"""The words all stages share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models.contract import Cancellation, Interrupted, NeverCancelled, Report, ignore

__all__ = ["Artifact", "Cancellation", "Interrupted", "NeverCancelled", "Report", "ignore"]


@dataclass(frozen=True)
class Artifact:
    """A finished local file that a stage hands on.

    Attributes:
        name: where it belongs in the published folder, with "/" ("1080p.mp4", "hls/master.m3u8").
        path: where it lies now; complete and closed.
        media_type: such as "video/mp4".
    """

    name: str
    path: Path
    media_type: str
