"""Stage 2: the mezzanine into one MP4 per rung, and HLS from the same packets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stages.contract import Artifact, Cancellation, NeverCancelled, Report, ignore


@dataclass(frozen=True)
class Rung:
    """One rendition of the ladder.

    Attributes:
        name: "720p", "1080p": the short side in pixels.
        width, height: in pixels, both even.
    """

    name: str
    width: int
    height: int


@dataclass(frozen=True)
class EncodeSpec:
    """What to make of a mezzanine.

    Attributes:
        rungs: lowest first.
        fps: of every rendition.
        frames: of every rendition, exactly.
        codec: "h264" or "av1" (`config.settings.EncodeSettings.codec`).
        encoder: "auto", "libx264", "h264_nvenc" or "libsvtav1".
    """

    rungs: tuple[Rung, ...]
    fps: int
    frames: int
    codec: str = "h264"
    encoder: str = "auto"


def ladder(quality: str, aspect_ratio: str) -> tuple[Rung, ...]:
    """The rungs up to `quality` ("720p", "1080p") for an aspect ratio ("16:9", "9:16", "1:1"), lowest first."""
    raise NotImplementedError


def encode(
    mezzanine: Path,
    spec: EncodeSpec,
    out: Path,
    report: Report = ignore,
    cancellation: Cancellation = NeverCancelled(),
) -> tuple[Artifact, ...]:
    """Make "720p.mp4", "1080p.mp4", "hls/master.m3u8", "hls/…" in the folder `out`."""
    raise NotImplementedError
