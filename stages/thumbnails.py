"""Stage 3a: posters and the storyboard, from one decode of the video."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray
from PIL import Image

from stages import poster, storyboard
from stages.contract import Artifact, Cancellation, NeverCancelled, Report, ignore
from stages.errors import MediaUnreadable
from stages.files import media, workspace

POSTER_WIDTHS = {"poster-small.jpg": 320, "poster-medium.jpg": 640, "poster-large.jpg": 1280}
"""Pixels; heights follow the picture."""

SHEET = "storyboard.jpg"
CUES = "storyboard.vtt"
MEDIA_TYPES = {".jpg": "image/jpeg", ".vtt": "text/vtt"}

POSTER_QUALITY = 88
"""Of JPEG: no visible blocks at the size it is shown."""

SHEET_QUALITY = 75
"""Of JPEG: tiles are looked at for moments while seeking."""

Picture = NDArray[np.uint8]


@dataclass
class Chosen:
    """What is kept of a video: a small tile per interval, and the best frame so far."""

    tiles: list[Picture]
    best: Picture
    best_score: float = -1.0


def thumbnails(
    video: Path, out: Path, report: Report = ignore, cancellation: Cancellation = NeverCancelled()
) -> tuple[Artifact, ...]:
    """Make the posters and the storyboard of `video` (the top rung's MP4) in the folder `out`.

    Names: "poster-small.jpg", "poster-medium.jpg", "poster-large.jpg" (320, 640, 1280 pixels wide; the frame is chosen
    as `stages.poster` explains), "storyboard.jpg" and "storyboard.vtt" (see `stages.storyboard`). Candidates for the
    poster are the storyboard's own frames, so memory holds one full frame and at most 100 small ones.

    Raises:
        MediaUnreadable: `video` cannot be decoded.
        DiskFull: no space is left in `out`.
        Interrupted: as `cancellation` asked; `out` has no new file then, as after any error.
    """
    with workspace(out) as work:
        with media(video.name), av.open(str(video)) as container:
            duration_s = _duration(container)
            seconds = storyboard.interval(duration_s, container.streams.video[0].frames / duration_s)
            chosen = _choose(container, seconds, duration_s, report, cancellation)
        _write_posters(chosen.best, work)
        _write_storyboard(chosen.tiles, seconds, duration_s, work)
    report(1.0)
    names = (*POSTER_WIDTHS, SHEET, CUES)
    return tuple(Artifact(name, out / name, MEDIA_TYPES[Path(name).suffix]) for name in names)


def _duration(container: InputContainer) -> float:
    stream = container.streams.video[0]
    if not stream.duration or not stream.time_base:
        raise MediaUnreadable("The video does not say how long it is.")
    return float(stream.duration * stream.time_base)


def _choose(
    container: InputContainer, seconds: float, duration_s: float, report: Report, cancellation: Cancellation
) -> Chosen:
    chosen = Chosen([], np.zeros((0, 0, 3), dtype=np.uint8))
    for frame in _samples(container, seconds, cancellation):
        position = float(frame.time or 0) / duration_s
        tile = _rgb(frame, storyboard.TILE_WIDTH, storyboard.tile_height(frame.width, frame.height))
        chosen.tiles.append(tile)
        score = poster.score(np.asarray(Image.fromarray(tile).convert("L")), position)
        if score > chosen.best_score:
            chosen.best, chosen.best_score = _rgb(frame, frame.width, frame.height), score
        report(position)
    if not chosen.tiles:
        raise MediaUnreadable("The video has no frames.")
    return chosen


def _samples(container: InputContainer, seconds: float, cancellation: Cancellation) -> Iterator[av.VideoFrame]:
    """The first frame of every interval."""
    container.streams.video[0].thread_type = "AUTO"
    due = 0.0
    for frame in container.decode(video=0):
        cancellation.check()
        if frame.time is not None and frame.time >= due:
            yield frame
            due += seconds


def _rgb(frame: av.VideoFrame, width: int, height: int) -> Picture:
    """The frame as full-range RGB, shape (height, width, 3)."""
    small = frame.reformat(
        width=width,
        height=height,
        format="rgb24",
        src_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=Interpolation.AREA | Interpolation.ACCURATE_RND,  # averages all pixels: no shimmer when shrinking
    )
    picture: Picture = small.to_ndarray()
    return picture


def _write_posters(frame: Picture, work: Path) -> None:
    image = Image.fromarray(frame)
    for name, width in POSTER_WIDTHS.items():
        height = round(width * image.height / image.width)
        sized = image.resize((width, height), Image.Resampling.LANCZOS)
        sized.save(work / name, quality=POSTER_QUALITY, optimize=True, progressive=True)


def _write_storyboard(tiles: list[Picture], seconds: float, duration_s: float, work: Path) -> None:
    Image.fromarray(storyboard.sheet(tiles)).save(work / SHEET, quality=SHEET_QUALITY, optimize=True)
    height, width, _ = tiles[0].shape
    cues = storyboard.cues(SHEET, len(tiles), seconds, duration_s, width, height)
    (work / CUES).write_text(cues, encoding="utf-8")
