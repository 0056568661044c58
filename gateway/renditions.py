"""Which published file a client means."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipeline.vocabulary import ArtifactRef

RENDITION = re.compile(r"(\d+)p\.mp4")


def rungs(published: Mapping[str, ArtifactRef]) -> dict[int, ArtifactRef]:
    """The MP4s by their short side, lowest first."""
    found = {int(match[1]): ref for name, ref in published.items() if (match := RENDITION.fullmatch(name))}
    return dict(sorted(found.items()))


def top(published: Mapping[str, ArtifactRef]) -> ArtifactRef:
    """The MP4 of the asked quality. Raises LookupError if there is none."""
    return rung(published, "auto")


def rung(published: Mapping[str, ArtifactRef], quality: str) -> ArtifactRef:
    """The MP4 of a quality ("720p"); "auto", and what is above the top rung, mean the top rung.

    Raises:
        LookupError: the job published no MP4.
    """
    ladder = rungs(published)
    if not ladder:
        raise LookupError("no rendition was published")
    wanted = max(ladder) if quality == "auto" else int(quality.removesuffix("p"))
    return ladder[min((side for side in ladder if side >= wanted), default=max(ladder))]
