"""Stage 3a: posters and the storyboard."""

from __future__ import annotations

from pathlib import Path

from stages.contract import Artifact, Cancellation, NeverCancelled, Report, ignore


def thumbnails(
    video: Path, out: Path, report: Report = ignore, cancellation: Cancellation = NeverCancelled()
) -> tuple[Artifact, ...]:
    """Make the posters and the storyboard of `video` (the top rung's MP4) in the folder `out`.

    Names: "poster-small.jpg", "poster-medium.jpg", "poster-large.jpg", "storyboard.jpg", "storyboard.vtt".
    """
    raise NotImplementedError
