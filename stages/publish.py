"""Stage 4: the completeness check and `manifest.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.contract import Artifact


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
    """Check that `files` is all a job with these rungs ("720p", …) publishes; write "manifest.json" into `out`."""
    raise NotImplementedError
