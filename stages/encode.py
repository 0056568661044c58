"""Stage 2: the mezzanine into one MP4 per rung, and HLS from the same packets."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from stages.contract import Artifact, Cancellation, NeverCancelled, Report, ignore
from stages.errors import FfmpegFailed
from stages.ffmpeg import CODECS, choose, ffmpeg_binary, run_ffmpeg
from stages.files import media, workspace
from stages.hls import artifact, package
from stages.ladder import Rung, ladder
from stages.probe import check_frames
from stages.transcode import command

__all__ = ["EncodeSpec", "Rung", "encode", "ladder"]

log = logging.getLogger(__name__)

TIME_LIMIT_S = 480.0
"""For all rungs. With that of packaging, a minute under the time limit of the encode queue: so the reason is told."""

ENCODED = 0.97
"""Share of this stage's time that is encoding; the rest is packaging."""


@dataclass(frozen=True)
class EncodeSpec:
    """What to make of a mezzanine.

    Attributes:
        rungs: lowest first.
        fps: of every rendition.
        frames: of every rendition, exactly.
        codec: "h264" or "av1" (`config.settings.EncodeSettings.codec`).
        encoder: "libx264", "h264_nvenc", "libsvtav1" or "auto": the best that works here, and if it fails all the same
            the last of `stages.ffmpeg.CODECS`.
    """

    rungs: tuple[Rung, ...]
    fps: int
    frames: int
    codec: str = "h264"
    encoder: str = "auto"


def encode(
    mezzanine: Path,
    spec: EncodeSpec,
    out: Path,
    report: Report = ignore,
    cancellation: Cancellation = NeverCancelled(),
) -> tuple[Artifact, ...]:
    """Make "720p.mp4", "1080p.mp4", "hls/master.m3u8", "hls/…" in the folder `out`.

    Args:
        report: gets `frame`, `frames` and `fps` (encoding speed in frames per second) in its details.

    Raises:
        FfmpegFailed, PackagerFailed: with the command and its last words.
        FfmpegMissing: no ffmpeg, or none with the encoder.
        FrameMismatch: an output does not have `spec.frames` frames.
        MediaUnreadable: the mezzanine is no video.
        ChildTimeout: it took longer than `TIME_LIMIT_S`.
        DiskFull: no space is left in `out`.
        Interrupted: as `cancellation` asked; `out` has no new file then, as after any error.
    """
    renditions = [f"{rung.name}.mp4" for rung in spec.rungs]
    with workspace(out) as work:
        _transcode(mezzanine, spec, work, report, cancellation)
        paths = {rung.name: work / name for rung, name in zip(spec.rungs, renditions, strict=True)}
        for path in paths.values():
            check_frames(path, spec.frames)
        report(ENCODED, "packaging")
        playlists = package(paths, work, cancellation)
    report(1.0)
    return tuple(artifact(name, out) for name in (*renditions, *playlists))


def _transcode(mezzanine: Path, spec: EncodeSpec, work: Path, report: Report, cancellation: Cancellation) -> None:
    started = time.monotonic()

    def progress(frame: int, speed: float) -> None:
        report(ENCODED * frame / spec.frames, frame=frame, frames=spec.frames, fps=speed)

    def run(encoder: str, time_limit_s: float) -> None:
        with media(mezzanine.name):
            argv = command(ffmpeg_binary(), mezzanine, spec.rungs, spec.fps, spec.frames, encoder, work)
        run_ffmpeg(argv, frames=spec.frames, time_limit_s=time_limit_s, cancellation=cancellation, on_progress=progress)

    encoder, last = choose(spec.codec, spec.encoder), CODECS[spec.codec][-1]
    try:
        run(encoder, TIME_LIMIT_S)
    except FfmpegFailed as error:
        if spec.encoder != "auto" or encoder == last:
            raise
        log.warning("%s failed, encoding once more with %s: %s", encoder, last, error)
        run(last, started + TIME_LIMIT_S - time.monotonic())
