"""Objects as files under one folder: for embedded use, and for several processes of one machine.

    objects/<key>    the objects
    incoming/        files being written; on the same file system, so that a link or a rename publishes them whole
    locks/           one lock file per shard of keys, so that check and rename of a `replace` are one step

`create` is `link(2)`, which fails if the name exists, whoever else tries. `replace` compares and renames under an
exclusive `flock(2)`, which the kernel drops when a process dies. Readers need no lock: they see the old or the new
file.
A key cannot be both an object and a prefix of others ("a" and "a/b"), as in any folder.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from pipeline import keys
from pipeline.errors import AlreadyExists, ObjectCorrupt, ObjectMissing, PreconditionFailed, StoreError, StoreFull
from pipeline.store.base import Incoming, ObjectInfo
from pipeline.store.checks import check_conditions, check_key
from pipeline.vocabulary import ArtifactRef

PIECE = 1 << 20
"""Bytes read or copied at a time."""
SHARDS = 256
"""Lock files; two keys that share one merely wait for each other."""
ABANDONED_S = 24 * 3600.0
"""A file this old in `incoming` belongs to a process that died; no write takes a day."""
PLACE_TRIES = 100
"""Tries to place a file while deletes of its neighbours prune the folder."""
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


class FileStore:
    """An `ObjectStore` in the folder `root`, which is made if need be; safe across threads and processes.

    Args:
        root: on a file system with hard links and `flock`; `probe` checks it.

    Raises:
        StoreError: the folder cannot be made or written.
    """

    def __init__(self, root: Path) -> None:
        self._objects, self._incoming, self._locks = (
            root.absolute() / name for name in ("objects", "incoming", "locks")
        )
        with _translated(root):
            for folder in (self._objects, self._incoming, self._locks):
                folder.mkdir(parents=True, exist_ok=True)
            self._remove_abandoned()

    def create(self, key: str, data: bytes, media_type: str = "application/json") -> str:
        """See `ObjectStore.create`."""
        path = self._path(key)
        with _translated(path), self._temporary() as temporary:
            etag = _write(temporary, data)
            if not _publish(temporary, path, os.link):
                raise AlreadyExists(f"There is already an object {key}.")
            return etag

    def replace(self, key: str, data: bytes, etag: str, media_type: str = "application/json") -> str:
        """See `ObjectStore.replace`."""
        path = self._path(key)
        with _translated(path), self._temporary() as temporary, self._locked(key):
            if _etag_of(path) != etag:
                raise PreconditionFailed(f"The object {key} has changed.")
            new = _write(temporary, data)
            _publish(temporary, path, os.replace)
            return new

    def get(self, key: str) -> tuple[bytes, str]:
        """See `ObjectStore.get`."""
        with _translated(self._path(key)), self._opened(key) as file:
            return file.read(), _etag(os.fstat(file.fileno()))

    def head(self, key: str) -> ObjectInfo | None:
        """See `ObjectStore.head`."""
        path = self._path(key)
        with _translated(path):
            return _info(key, path)

    def put_file(self, path: Path, name: str, media_type: str) -> ArtifactRef:
        """See `ObjectStore.put_file`. Copied, not linked: the caller may go on writing to its own file."""
        with _translated(self._incoming), self._temporary() as temporary:
            with path.open("rb") as source, temporary.open("xb") as target:
                digest, size = _copy(_pieces(source), target)
                _sync(target)
            self._place_blob(temporary, keys.blob(digest))
        return ArtifactRef(name=name, digest=digest, key=keys.blob(digest), size=size, media_type=media_type)

    def receive(self) -> Incoming:
        """See `ObjectStore.receive`. The bytes are written once: publishing gives the file its name."""
        with _translated(self._incoming):
            return _Arriving(self._incoming / uuid4().hex, self._place_blob)

    def fetch(self, ref: ArtifactRef, path: Path) -> None:
        """See `ObjectStore.fetch`."""
        with _translated(self._path(ref.key)):
            source = self._opened(ref.key)
        with source:
            save(_pieces(source), ref, path)

    def read(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See `ObjectStore.read`."""
        with _translated(self._path(key)):
            file = self._opened(key)
            file.seek(start)
        return _closing(file, length)

    def local_path(self, key: str) -> Path | None:
        """See `ObjectStore.local_path`."""
        path = self._path(key)
        if not path.is_file():
            raise _missing(key)
        return path

    def url_for(self, key: str, expires_s: int = 3600) -> str | None:
        """None: the objects are files, see `local_path`."""
        return None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `ObjectStore.list`. Holds the names of all that match."""
        folder = self._objects
        if parent := prefix.rpartition("/")[0]:
            folder /= check_key(parent)
        with _translated(self._objects):
            paths = (Path(at, name) for at, _, names in os.walk(folder) for name in names)
            found = (path.relative_to(self._objects).as_posix() for path in paths)
            matching = sorted((key for key in found if key.startswith(prefix)), key=str.encode)
        return (info for key in matching if (info := self.head(key)))

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`. Folders left empty go too."""
        path = self._path(key)
        with _translated(path), self._locked(key):
            with suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
            self._prune(path.parent)

    def remove_old(self, key: str, written_before: float) -> bool:
        """See `ObjectStore.remove_old`. Exact: writers of a blob and this hold the same lock."""
        path = self._path(key)
        with _translated(path), self._locked(key):
            found = _info(key, path)
            if found is not None and found.modified_at >= written_before:
                return False
            path.unlink(missing_ok=True)
            self._prune(path.parent)
            return True

    def ping(self) -> None:
        """See `ObjectStore.ping`."""
        for folder in (self._objects, self._incoming, self._locks):
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                raise StoreError(f"{folder} is missing, or cannot be written.", remedy="Check `data_dir`.")

    def probe(self) -> None:
        """See `ObjectStore.probe`."""
        check_conditions(self)

    def _place_blob(self, temporary: Path, key: str) -> None:
        path = self._path(key)
        with self._locked(key):
            if not _publish(temporary, path, os.link):
                os.utime(path)  # its new owner has no reference yet: see `remove_old`

    def _path(self, key: str) -> Path:
        return self._objects / check_key(key)

    def _opened(self, key: str) -> BinaryIO:
        try:
            return self._path(key).open("rb")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise _missing(key) from None

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        path = self._incoming / uuid4().hex
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        shard = hashlib.blake2b(key.encode(), digest_size=1).hexdigest()
        with (self._locks / shard).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # one open file each, so threads exclude each other too; closing unlocks
            yield

    def _prune(self, folder: Path) -> None:
        with suppress(OSError):  # not empty, or another process was faster
            while folder != self._objects:
                folder.rmdir()
                folder = folder.parent

    def _remove_abandoned(self) -> None:
        for path in self._incoming.iterdir():
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > ABANDONED_S:
                    path.unlink()


class _Arriving:
    """See `Incoming`; a file in `incoming` until it is placed."""

    def __init__(self, path: Path, place: Callable[[Path, str], None]) -> None:
        self._path, self._place = path, place
        self._file = path.open("xb")
        self._sha256, self._size = hashlib.sha256(), 0

    def write(self, piece: bytes) -> None:
        """See `Incoming.write`."""
        with _translated(self._path.parent):
            self._file.write(piece)
        self._sha256.update(piece)
        self._size += len(piece)

    def finish(self) -> tuple[str, int]:
        """See `Incoming.finish`."""
        with _translated(self._path.parent):
            _sync(self._file)
            self._file.close()
        return f"sha256:{self._sha256.hexdigest()}", self._size

    def publish(self, name: str, media_type: str) -> ArtifactRef:
        """See `Incoming.publish`."""
        digest = f"sha256:{self._sha256.hexdigest()}"
        key = keys.blob(digest)
        with _translated(self._path.parent):
            self._place(self._path, key)
        return ArtifactRef(name=name, digest=digest, key=key, size=self._size, media_type=media_type)

    def discard(self) -> None:
        """See `Incoming.discard`."""
        with _translated(self._path.parent), suppress(FileNotFoundError):
            self._file.close()
            self._path.unlink()


def save(pieces: Iterator[bytes], ref: ArtifactRef, path: Path) -> None:
    """Write a blob's bytes to `path`, whole and checked against its digest, or not at all.

    Raises:
        ObjectCorrupt: the bytes have another digest.
        StoreFull: no space is left in the folder of `path`.
        StoreError: that folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    with _translated(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as target:
                digest, _ = _copy(pieces, target)
            if digest != ref.digest:
                raise ObjectCorrupt(f"The stored bytes of {ref.name} do not have its digest.")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def digest_of(path: Path) -> tuple[str, int]:
    """("sha256:…", size in bytes) of a file."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}", file.tell()


def _copy(pieces: Iterator[bytes], target: BinaryIO) -> tuple[str, int]:
    """Write all `pieces`; returns their digest and size."""
    sha256, size = hashlib.sha256(), 0
    for piece in pieces:
        sha256.update(piece)
        target.write(piece)
        size += len(piece)
    return f"sha256:{sha256.hexdigest()}", size


def _write(path: Path, data: bytes) -> str:
    with path.open("xb") as file:
        file.write(data)
        _sync(file)
        # The kernel's own timestamps advance in ticks of some milliseconds, in which several writes fit.
        os.utime(file.fileno(), ns=(time.time_ns(), time.time_ns()))
        return _etag(os.fstat(file.fileno()))


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _publish(temporary: Path, path: Path, place: Callable[[Path, Path], None]) -> bool:
    """Give the finished file its name by `place` and write the folder through; False if the name was taken."""
    for _ in range(PLACE_TRIES):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            place(temporary, path)
        except FileExistsError:
            return False
        except FileNotFoundError:  # a concurrent delete pruned the empty folder
            continue
        _sync_folder(path.parent)
        return True
    raise FileNotFoundError(errno.ENOENT, "its folder disappears again and again", str(path))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _etag(stat: os.stat_result) -> str:
    """Differs between any two writes: each makes a new file, at a later nanosecond."""
    return f"{stat.st_mtime_ns:x}-{stat.st_ino:x}-{stat.st_size:x}"


def _etag_of(path: Path) -> str | None:
    try:
        return _etag(path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return None


def _info(key: str, path: Path) -> ObjectInfo | None:
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return ObjectInfo(key, _etag(stat), stat.st_size, stat.st_mtime) if path.is_file() else None


def _pieces(file: BinaryIO, length: int | None = None) -> Iterator[bytes]:
    left = length if length is not None else os.fstat(file.fileno()).st_size
    while left > 0 and (piece := file.read(min(PIECE, left))):
        left -= len(piece)
        yield piece


def _closing(file: BinaryIO, length: int | None) -> Iterator[bytes]:
    with file:
        yield from _pieces(file, length)


def _missing(key: str) -> ObjectMissing:
    return ObjectMissing(f"There is no object {key}.")


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _store_error(error, path) from error


def _store_error(error: OSError, path: Path) -> StoreError:
    if error.errno in NO_SPACE:
        return StoreFull(f"No space is left for {path}.", remedy="Free some space or choose another `data_dir`.")
    if error.errno in FORBIDDEN:
        return StoreError(
            f"{path} cannot be written: {error.strerror}.",
            remedy="Give this user write permission, or choose another `data_dir`.",
        )
    return StoreError(f"{path} cannot be used: {error.strerror or error}.")
