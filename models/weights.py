"""Weights on disk: pulled at a pinned revision, locked by sha256, verified, mirrored to a store. Imports no torch.

A folder of weights is complete when it holds `weights.lock.json`, which is written last: every file with its size and
sha256. Pulling needs the network; loading never does.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from config.catalogue import Catalogue, ModelEntry
from config.settings import ModelSettings
from models.errors import WeightsCorrupt, WeightsMissing, WeightsUnavailable

if TYPE_CHECKING:
    from huggingface_hub import HfApi

LOCK = "weights.lock.json"
INDEX = "model_index.json"
BUNDLED = "bundled"
SUFFIXES = (".json", ".safetensors", ".txt", ".model", ".jinja")
"""Of the files of a component that are pulled: configurations, tokenizers and tensors; nothing that can hold code."""

Told = Callable[[str, int], None]
"""Told the name and the size in bytes of each file that is done."""


def ignore(name: str, size: int) -> None:
    """A `Told` for those who need not know."""


class LockedFile(BaseModel):
    """What one file must be: `size` in bytes, `sha256` in hex."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    sha256: str


class Lock(BaseModel):
    """Contents of `weights.lock.json`: where the files came from, and each by its path with "/"."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    revision: str
    files: dict[str, LockedFile]


class WeightsStore(Protocol):
    """A place that mirrors folders of weights, such as an S3 prefix. Names have "/" and no leading one."""

    def put(self, name: str, path: Path) -> None:
        """Store the file at `path` as `name`."""

    def get(self, name: str, path: Path) -> None:
        """Write what is stored as `name` to `path`, whose folder exists.

        Raises:
            FileNotFoundError: nothing has this name.
        """


class Presence(StrEnum):
    """What `listing` finds of a row's weights."""

    BUNDLED = "bundled"
    PRESENT = "present"
    MISSING = "missing"


@dataclass(frozen=True)
class Listed:
    """One row of `t2m models list`; `size` in bytes, 0 when missing."""

    entry: ModelEntry
    folder: Path
    presence: Presence
    size: int


def local_root(settings: ModelSettings) -> Path:
    """The local folder under which pulled weights lie: `settings.weights`, or the cache when that is in a store."""
    remote = not settings.weights or settings.weights.startswith("s3://")
    return settings.cache.expanduser() if remote else Path(settings.weights).expanduser()


def folder_of(entry: ModelEntry, settings: ModelSettings) -> Path:
    """Where the weights of `entry` belong on this machine, whether or not they are there."""
    if entry.source == BUNDLED:
        return Path(__file__).parent / entry.name / "weights"
    return local_root(settings) / f"{entry.name}@{entry.revision}"


def locate(entry: ModelEntry, settings: ModelSettings) -> Path:
    """The complete folder of weights of `entry`, sizes checked; bundled weights are digested in full.

    Raises:
        WeightsMissing: there is no such folder, or a file of it is gone.
        WeightsCorrupt: a file is not what the lock says.
    """
    folder = folder_of(entry, settings)
    if not (folder / LOCK).is_file():
        raise WeightsMissing(f"The weights of {entry.name} are not in {folder}.", remedy=_remedy(entry))
    check(entry, folder, digests=entry.source == BUNDLED)
    return folder


def check(entry: ModelEntry, folder: Path, *, digests: bool = True, told: Told = ignore) -> None:
    """Compare every file of `folder` with its lock; `digests` reads them whole, otherwise sizes must do.

    Raises:
        WeightsMissing: a file, or the lock, is gone.
        WeightsCorrupt: the lock is unreadable or of another revision, or a file is not what it says.
    """
    lock = read_lock(entry, folder)
    if (lock.source, lock.revision) != (entry.source, entry.revision):
        raise WeightsCorrupt(
            f"{folder} holds {lock.source} at {lock.revision}, not {entry.source} at {entry.revision}.",
            remedy=_remedy(entry),
        )
    for name, expected in lock.files.items():
        _check_file(entry, folder / name, expected, digests)
        told(name, expected.size)


def _check_file(entry: ModelEntry, path: Path, expected: LockedFile, digests: bool) -> None:
    if not path.is_file():
        raise WeightsMissing(f"{path.name} of {entry.name} is missing in {path.parent}.", remedy=_remedy(entry))
    if path.stat().st_size != expected.size:
        raise WeightsCorrupt(f"{path} has {path.stat().st_size} bytes, not {expected.size}.", remedy=_remedy(entry))
    if digests and sha256(path) != expected.sha256:
        raise WeightsCorrupt(f"{path} has not the sha256 of its lock.", remedy=_remedy(entry))


def _remedy(entry: ModelEntry) -> str:
    if entry.source == BUNDLED:
        return "Install T2M again: these weights are part of it."
    return f"Run `t2m models pull {entry.name}`."


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_lock(entry: ModelEntry, folder: Path) -> Lock:
    """The lock of `folder`.

    Raises:
        WeightsMissing: it has none.
        WeightsCorrupt: it cannot be read, or names files outside the folder.
    """
    try:
        lock = Lock.model_validate_json((folder / LOCK).read_bytes())
    except FileNotFoundError as error:
        raise WeightsMissing(f"{folder} has no {LOCK}.", remedy=_remedy(entry)) from error
    except (OSError, ValidationError) as error:
        raise WeightsCorrupt(f"{folder / LOCK} cannot be read.", remedy=_remedy(entry)) from error
    if any(PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts for name in lock.files):
        raise WeightsCorrupt(f"{folder / LOCK} names files outside its folder.", remedy=_remedy(entry))
    return lock


def write_lock(folder: Path, source: str, revision: str) -> Lock:
    """Lock every file of `folder` as it is now; call it last, it marks the folder as complete."""
    files = {
        path.relative_to(folder).as_posix(): LockedFile(size=path.stat().st_size, sha256=sha256(path))
        for path in _files(folder)
    }
    lock = Lock(source=source, revision=revision, files=files)
    partial = folder / f"{LOCK}.partial"
    partial.write_text(json.dumps(lock.model_dump(), indent=1) + "\n", encoding="utf-8")
    partial.replace(folder / LOCK)
    return lock


def _files(folder: Path) -> Iterator[Path]:
    """Weight files of a folder in order; not the lock, nor what the hub's client keeps for itself in `.cache`."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in SUFFIXES and path.name != LOCK and ".cache" not in path.parts:
            yield path


def listing(catalogue: Catalogue, settings: ModelSettings) -> tuple[Listed, ...]:
    """Every row of the catalogue and whether its weights are complete on this machine."""
    return tuple(_listed(entry, folder_of(entry, settings)) for entry in catalogue)


def _listed(entry: ModelEntry, folder: Path) -> Listed:
    if not (folder / LOCK).is_file():
        return Listed(entry, folder, Presence.MISSING, 0)
    presence = Presence.BUNDLED if entry.source == BUNDLED else Presence.PRESENT
    return Listed(entry, folder, presence, sum(file.size for file in read_lock(entry, folder).files.values()))


def pull(entry: ModelEntry, settings: ModelSettings, *, hub: HfApi | None = None) -> Path:
    """Download the weights of `entry` at its pinned commit into the local folder; goes on where it was cut off.

    Files that the hub stores by sha256 are checked against that. The folder gets its final name when all is there.

    Args:
        entry: a row that is not bundled.
        settings: say where to (`local_root`).
        hub: another endpoint or token than the environment's.

    Raises:
        WeightsUnavailable: the hub cannot be reached, or refuses: a gated repository needs `HF_TOKEN`.
        WeightsCorrupt: what came is not what the hub says it is.
    """
    folder = folder_of(entry, settings)
    if entry.source == BUNDLED or (folder / LOCK).is_file():
        return folder
    partial = folder.with_name(f"{folder.name}.partial")
    _download(entry, partial, hub)
    write_lock(partial, entry.source, entry.revision)
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    partial.replace(folder)
    return folder


def _download(entry: ModelEntry, partial: Path, hub: HfApi | None) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # whichever client it uses
        HTTPError,
        LocalEntryNotFoundError,
    )

    hub = hub or HfApi()
    try:
        info = hub.model_info(entry.source, revision=entry.revision, files_metadata=True)
        index = hub.hf_hub_download(entry.source, INDEX, revision=entry.revision, local_dir=partial)
        components = _components(Path(index))
        wanted = [sibling for sibling in info.siblings or () if _wanted(sibling.rfilename, components)]
        hub.snapshot_download(
            entry.source,
            revision=entry.revision,
            local_dir=partial,
            allow_patterns=[sibling.rfilename for sibling in wanted],
        )
    except (HTTPError, LocalEntryNotFoundError) as error:
        raise WeightsUnavailable(
            f"{entry.source} at {entry.revision} cannot be downloaded: {str(error).splitlines()[0]}",
            remedy="Check the network; a gated repository needs its licence accepted and HF_TOKEN set.",
        ) from error
    _check_against_hub(entry, partial, wanted)


def _components(index: Path) -> frozenset[str]:
    """Folders of the parts a pipeline has; its index gives each as [library, class], absent ones as nulls."""
    parts = json.loads(index.read_text(encoding="utf-8"))
    return frozenset(name for name, value in parts.items() if isinstance(value, list) and value[0])


def _wanted(name: str, components: frozenset[str]) -> bool:
    """Only the index and files of its components; repositories hold other formats and models beside them."""
    path = PurePosixPath(name)
    return name == INDEX or (len(path.parts) == 2 and path.parts[0] in components and path.suffix in SUFFIXES)


def _check_against_hub(entry: ModelEntry, folder: Path, siblings: list[Any]) -> None:
    for sibling in siblings:
        expected = sibling.lfs.sha256 if sibling.lfs else None
        if expected and sha256(folder / sibling.rfilename) != expected:
            (folder / sibling.rfilename).unlink()
            raise WeightsCorrupt(
                f"{sibling.rfilename} of {entry.source} came damaged.", remedy=f"{_remedy(entry)} It goes on from here."
            )


def upload(entry: ModelEntry, settings: ModelSettings, store: WeightsStore, *, told: Told = ignore) -> None:
    """Copy the local weights of `entry` into `store`, the lock last.

    Raises:
        WeightsMissing: they are not complete here.
        WeightsCorrupt: a file is not what the lock says.
    """
    folder = folder_of(entry, settings)
    check(entry, folder)
    for name, file in read_lock(entry, folder).files.items():
        store.put(f"{folder.name}/{name}", folder / name)
        told(name, file.size)
    store.put(f"{folder.name}/{LOCK}", folder / LOCK)


def fetch(entry: ModelEntry, settings: ModelSettings, store: WeightsStore, *, told: Told = ignore) -> Path:
    """Copy the weights of `entry` from `store` to the local folder unless they are there, checking every digest.

    Raises:
        WeightsMissing: the store has none of this revision.
        WeightsCorrupt: a file came otherwise than the lock says.
    """
    folder = folder_of(entry, settings)
    if entry.source == BUNDLED or (folder / LOCK).is_file():
        return folder
    partial = folder.with_name(f"{folder.name}.partial")
    _get(entry, store, f"{folder.name}/{LOCK}", partial / LOCK)
    for name, file in read_lock(entry, partial).files.items():
        _get(entry, store, f"{folder.name}/{name}", partial / name)
        _check_file(entry, partial / name, file, digests=True)
        told(name, file.size)
    partial.replace(folder)
    return folder


def _get(entry: ModelEntry, store: WeightsStore, name: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        store.get(name, path)
    except FileNotFoundError as error:
        raise WeightsMissing(
            f"The store of weights has no {name}.", remedy=f"Run `t2m models pull {entry.name}` with this store set."
        ) from error
