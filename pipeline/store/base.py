"""What T2M needs of an object store. The two conditional writes carry the correctness of the whole pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.vocabulary import ArtifactRef


@dataclass(frozen=True)
class ObjectInfo:
    """What `head` and `list` tell.

    Attributes:
        etag: opaque; changes whenever the bytes do. Writing the same bytes again may keep it, so a writer who needs a
            fencing token puts something of its own (worker, hop) into the bytes.
        size: bytes.
        modified_at: seconds since the epoch.
    """

    key: str
    etag: str
    size: int
    modified_at: float


class Incoming(Protocol):
    """Bytes whose digest is known only at their end, on their way into a store. Blocking; one thread at a time.

    `write` any number of times, then `finish`, then perhaps `publish`; `discard` in any case, which removes what was
    not published. Methods raise what the store raises.
    """

    def write(self, piece: bytes) -> None:
        """Take the next bytes; waits while the store is slower than who writes."""

    def finish(self) -> tuple[str, int]:
        """All bytes are in the store: ("sha256:…", their number)."""

    def publish(self, name: str, media_type: str) -> ArtifactRef:
        """Make them a blob under their digest; the bytes are not sent again."""

    def discard(self) -> None:
        """Remove what was not published; may be called at any time and more than once."""


class ObjectStore(Protocol):
    """Blocking and thread-safe. Every call has a time limit and bounded retries.

    All methods raise `StoreError` when the store cannot be reached (after retries), `StoreFull` when it has no space.
    """

    def create(self, key: str, data: bytes, media_type: str = "application/json") -> str:
        """Write `data` if and only if `key` has no object; of many concurrent callers exactly one succeeds.

        Returns the etag. Raises `AlreadyExists`. A retry after a lost answer that finds its own write has won; the same
        bytes written by somebody else are not its own. After a `StoreError` the outcome is unknown: read the key.
        """

    def replace(self, key: str, data: bytes, etag: str, media_type: str = "application/json") -> str:
        """Write `data` if and only if the object still has `etag`, and return its new one.

        Raises `PreconditionFailed`. Lost answers are treated as in `create`.
        """

    def get(self, key: str) -> tuple[bytes, str]:
        """A small object and its etag. Raises `ObjectMissing`."""

    def head(self, key: str) -> ObjectInfo | None:
        """What is there, or None."""

    def put_file(self, path: Path, name: str, media_type: str) -> ArtifactRef:
        """Store a file as a blob under its sha256 (multipart when large); bytes already stored are not sent again."""

    def receive(self) -> Incoming:
        """Take in a blob piece by piece, in memory of a few pieces. What a process that died left is removed later."""

    def fetch(self, ref: ArtifactRef, path: Path) -> None:
        """Download a blob to `path` (written whole or not at all). Raises `ObjectMissing`, `ObjectCorrupt`."""

    def read(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Stream part of an object in pieces of ≤ 1 MiB. Raises `ObjectMissing` before the first piece."""

    def local_path(self, key: str) -> Path | None:
        """The file that holds the object, if this store keeps objects as files of this machine, else None.

        For reading only (`aiohttp.web.FileResponse`). Raises `ObjectMissing` when there should be a file and is none.
        """

    def url_for(self, key: str, expires_s: int = 3600) -> str | None:
        """A signed URL to GET the object by plain HTTP (Range works), if this store is remote, else None.

        Computed without a request, so it may be called on an event loop and does not show whether the object exists.
        Exactly one of `local_path` and `url_for` serves a given store: ask for the path first.
        """

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects whose key starts with `prefix`, each once; sorted by key or by folder, as the server does."""

    def delete(self, key: str) -> None:
        """Remove an object; removing what is not there is fine."""

    def remove_old(self, key: str, written_before: float) -> bool:
        """Remove an object unless it was written, or relied upon by a writer of the same bytes, since (epoch seconds).

        Returns whether it is gone. For sweeps of blobs that nothing refers to: a `put_file` of the same bytes either
        comes before and saves the blob, or after and stores it anew.
        """

    def ping(self) -> None:
        """Check, without writing, that the folder or bucket is there for this process to use. Raises `StoreError`."""

    def probe(self) -> None:
        """Check that the store can be written and honours both conditions. Raises `StoreUnfit`, `StoreError`."""
