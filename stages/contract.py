"""The words all stages share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from models.contract import Cancellation, Interrupted, NeverCancelled, Report, ignore

__all__ = ["Artifact", "Cancellation", "Interrupted", "NeverCancelled", "Report", "Show", "ignore", "unseen"]


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


class Show(Protocol):
    """Given small pictures of a clip while it is made.

    Args:
        jpeg: the picture.
        at_s: its place in the clip, in seconds.
    """

    def __call__(self, jpeg: bytes, at_s: float) -> None:
        """Must return soon: the work waits."""


def unseen(jpeg: bytes, at_s: float) -> None:
    """A `Show` that nobody watches."""
