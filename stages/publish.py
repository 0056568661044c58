"""Stage 4: the completeness check and `manifest.json`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages import metadata, thumbnails
from stages.contract import Artifact
from stages.errors import Incomplete
from stages.files import workspace
from stages.hls import MASTER

NAME = "manifest.json"
VERSION = 1


@dataclass(frozen=True)
class Published:
    """One artifact as it is stored; a line of the manifest.

    Attributes:
        name: in the published folder.
        key: of the object in the store.
        digest: "sha256:" and 64 hex digits.
        size: bytes.
        media_type: such as "video/mp4".
    """

    name: str
    key: str
    digest: str
    size: int
    media_type: str


def publish(files: Sequence[Published], rungs: Sequence[str], out: Path) -> Artifact:
    """Check that `files` is all a job with these rungs ("720p", …) publishes; write "manifest.json" into `out`.

    The manifest lists every artifact but itself, by name; equal artifacts give equal bytes.

    Raises:
        Incomplete: an artifact is missing, empty or there twice.
        DiskFull: no space is left in `out`.
    """
    _check(files, rungs)
    content = {"version": VERSION, "artifacts": [_line(file) for file in sorted(files, key=lambda file: file.name)]}
    with workspace(out) as work:
        (work / NAME).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return Artifact(NAME, out / NAME, "application/json")


def expected(rungs: Sequence[str]) -> tuple[str, ...]:
    """Names of all artifacts every job with these rungs has; one with sound has "hls/audio.…" besides."""
    per_rung = ("{}.mp4", "hls/{}.m3u8", "hls/{}-iframes.m3u8", "hls/{}.mp4")
    return (
        *(pattern.format(rung) for rung in rungs for pattern in per_rung),
        MASTER,
        *thumbnails.POSTER_WIDTHS,
        thumbnails.SHEET,
        thumbnails.CUES,
        metadata.NAME,
    )


def _check(files: Sequence[Published], rungs: Sequence[str]) -> None:
    counts = Counter(file.name for file in files)
    problems = {
        "there is no": [name for name in expected(rungs) if name not in counts],
        "there is more than one": [name for name, count in counts.items() if count > 1],
        "nothing is in": [file.name for file in files if file.size == 0],
    }
    for problem, names in problems.items():
        if names:
            raise Incomplete(problem, names)


def _line(file: Published) -> dict[str, str | int]:
    return {
        "name": file.name,
        "key": file.key,
        "size": file.size,
        "sha256": file.digest.removeprefix("sha256:"),
        "media_type": file.media_type,
    }
