"""What T2M needs of an object store. The two conditional writes carry the correctness of the whole pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.vocabulary import ArtifactRef


@dataclass(frozen=True)
class ObjectInfo:
    """Attributes: etag is opaque and changes with every write; size in bytes; modified_at in seconds since the epoch."""

    key: str
    etag: str
    size: int
    modified_at: float


class ObjectStore(Protocol):
    """Blocking and thread-safe. Every call has a time limit and bounded retries.

    All methods raise `StoreError` when the store cannot be reached (after retries), `StoreFull` when it has no space.
    """

    def create(self, key: str, data: bytes, media_type: str = "application/json") -> str:
        """Write `data` if and only if `key` has no object; of many concurrent callers exactly one succeeds.

        Returns the etag. Raises `AlreadyExists`. A retry after a lost answer that finds its own bytes has won.
        """

    def replace(self, key: str, data: bytes, etag: str, media_type: str = "application/json") -> str:
        """Write `data` if and only if the object still has `etag`. Returns the new etag. Raises `PreconditionFailed`."""

    def get(self, key: str) -> tuple[bytes, str]:
        """A small object and its etag. Raises `ObjectMissing`."""

    def head(self, key: str) -> ObjectInfo | None:
        """What is there, or None."""

    def put_file(self, path: Path, name: str, media_type: str) -> ArtifactRef:
        """Store a file as a blob under its sha256 (multipart when large); bytes already stored are not sent again."""

    def fetch(self, ref: ArtifactRef, path: Path) -> None:
        """Download a blob to `path` (written whole or not at all). Raises `ObjectMissing`, `ObjectCorrupt`."""

    def read(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Stream part of an object in pieces of ≤ 1 MiB. Raises `ObjectMissing` before the first piece."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects whose key starts with `prefix`, by key."""

    def delete(self, key: str) -> None:
        """Remove an object; removing what is not there is fine."""

    def probe(self) -> None:
        """Check that the store can be written and honours both conditions. Raises `StoreUnfit`, `StoreError`."""
