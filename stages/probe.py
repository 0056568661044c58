"""What is really in an output file, read with PyAV."""

from __future__ import annotations

from pathlib import Path

import av

from stages.errors import FrameMismatch
from stages.files import media


def check_frames(path: Path, expected: int) -> None:
    """Count the video packets of an MP4 by its index.

    Raises:
        FrameMismatch: there are not `expected`.
        MediaUnreadable: it is no MP4 with video.
    """
    with media(path.name), av.open(str(path)) as container:
        actual = container.streams.video[0].frames
    if actual != expected:
        raise FrameMismatch(path.name, expected, actual)
