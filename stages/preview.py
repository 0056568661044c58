"""Small pictures of a clip that is not done yet."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.contract import Show

PER_CLIP = 4
"""The first frame of each quarter: enough to see what becomes of a clip and how it moves."""

LONG_SIDE = 256
"""Pixels."""

JPEG_QUALITY = 60
"""Measured: pictures with the spectrum of natural ones (1/f) have 9 kB then, few enough to travel with the events."""


class Previews:
    """Shows frames of a clip as soon as they are decoded.

    Args:
        frames: of the whole clip.
        fps: frames per second.
    """

    def __init__(self, frames: int, fps: float, show: Show) -> None:
        self._due = {quarter * frames // PER_CLIP for quarter in range(PER_CLIP)}
        self._fps, self._show = fps, show
        self._seen = 0

    def look(self, frames: NDArray[np.uint8]) -> None:
        """Take the next frames in; RGB, shape (frames, height, width, 3)."""
        for index, frame in enumerate(frames, self._seen):
            if index in self._due:
                self._show(_small(frame), index / self._fps)
        self._seen += len(frames)


def _small(frame: NDArray[np.uint8]) -> bytes:
    picture = Image.fromarray(frame)
    picture.thumbnail((LONG_SIDE, LONG_SIDE))
    packed = io.BytesIO()
    picture.save(packed, "JPEG", quality=JPEG_QUALITY)
    return packed.getvalue()
