"""The sprite sheet for a player's seek bar, and the WebVTT file that maps times to its tiles.

Cues carry `storyboard.jpg#xywh=x,y,width,height` (W3C Media Fragments 1.0, spatial dimension), as JW Player, Video.js,
Vidstack and Shaka Player read them.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

INTERVALS_S = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds a tile may stand for."""

MAX_TILES = 100
"""A sheet of 10 × 10 tiles of 160×90 is 1600×900: one small download that any device can decode."""

COLUMNS = 10

TILE_WIDTH = 160
"""Pixels; the height follows the picture."""


def interval(duration_s: float, fps: float) -> float:
    """Seconds per tile: the shortest that needs no more than `MAX_TILES` and has a frame of its own each time."""
    for seconds in INTERVALS_S:
        if math.ceil(duration_s / seconds) <= MAX_TILES and seconds * fps >= 1:
            return seconds
    return duration_s / MAX_TILES


def tile_height(width: int, height: int) -> int:
    """Height in pixels of the tiles of a `width` × `height` picture."""
    return max(1, round(TILE_WIDTH * height / width))


def sheet(tiles: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The tiles, RGB of shape (height, width, 3), in rows of `COLUMNS`; the rest of the last row is black."""
    height, width, _ = tiles[0].shape
    columns = min(COLUMNS, len(tiles))
    picture = np.zeros((math.ceil(len(tiles) / columns) * height, columns * width, 3), dtype=np.uint8)
    for index, tile in enumerate(tiles):
        x, y = _corner(index, width, height)
        picture[y : y + height, x : x + width] = tile
    return picture


def cues(image: str, count: int, seconds: float, duration_s: float, width: int, height: int) -> str:
    """A WebVTT file of `count` cues of `seconds` each, the last of which ends with the video.

    Args:
        image: name of the sheet, relative to the WebVTT file.
        width, height: of a tile in pixels.
    """
    blocks = ["WEBVTT"]
    for index in range(count):
        x, y = _corner(index, width, height)
        end = duration_s if index == count - 1 else (index + 1) * seconds
        span = f"{_timestamp(index * seconds)} --> {_timestamp(end)}"
        blocks.append(f"{span}\n{image}#xywh={x},{y},{width},{height}")
    return "\n\n".join(blocks) + "\n"


def _corner(index: int, width: int, height: int) -> tuple[int, int]:
    return index % COLUMNS * width, index // COLUMNS * height


def _timestamp(seconds: float) -> str:
    """WebVTT's hh:mm:ss.mmm; rounded up, so that the last cue covers the last frame."""
    ms = math.ceil(round(seconds * 1000, 3))
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}.{ms % 1000:03}"
