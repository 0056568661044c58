"""A finished job's artifacts as files in a folder; no partial file ever has a final name."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from config.errors import ConfigError
from pipeline.store.base import ObjectStore
from pipeline.vocabulary import ArtifactRef

MANIFEST = "manifest.json"


def check_writable(out: Path, option: str) -> None:
    """Make the folder and write in it.

    Args:
        option: by which another can be chosen.

    Raises:
        ConfigError: it cannot be made or written; says why.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise ConfigError(
            f"Cannot write to {out}: {error.strerror}.", remedy=f"Choose another folder with {option}."
        ) from error


def check_space(folder: Path, needed_bytes: int) -> None:
    """Refuse to begin what would fill the disk.

    Raises:
        ConfigError: less than `needed_bytes` are free where `folder` lies; says both figures.
    """
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed_bytes:
        raise ConfigError(
            f"{folder} has {free / 1e9:.1f} GB of free disk space; {needed_bytes / 1e9:.1f} GB may be needed.",
            remedy="Free some, or choose another folder.",
        )


def export(store: ObjectStore, artifacts: Sequence[ArtifactRef], out: Path) -> None:
    """Put `artifacts` into `out`, replacing those of an earlier job there; `manifest.json` goes first and comes last.

    All are fetched and checked before the first gets its final name.

    Raises:
        PipelineError: see `ObjectStore.fetch`.
        OSError: the disk is full, or the folder went away.
    """
    with tempfile.TemporaryDirectory(prefix=".t2m-", dir=out) as temporary:
        staging, old = Path(temporary, "new"), Path(temporary, "old")
        old.mkdir()
        for ref in artifacts:
            path = staging / ref.name
            path.parent.mkdir(parents=True, exist_ok=True)
            store.fetch(ref, path)
        _retire(out, old)
        for path in sorted(staging.iterdir(), key=lambda path: path.name == MANIFEST):
            if (out / path.name).is_dir():
                (out / path.name).replace(old / path.name)
            path.replace(out / path.name)


def _retire(out: Path, old: Path) -> None:
    """Move what an earlier job's manifest names out of the way, the manifest first."""
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        manifest = json.loads((out / MANIFEST).read_bytes())
        names = [PurePosixPath(item["name"]).parts[0] for item in manifest["artifacts"]]
        for name in dict.fromkeys((MANIFEST, *names)):
            (out / name).replace(old / name)
