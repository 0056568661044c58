"""Turns pieces that are handed over into a stream that an SDK reads, in a thread of its own."""

from __future__ import annotations

import hashlib
import io
import queue
import threading
from collections.abc import Callable
from typing import BinaryIO, cast

from pipeline import keys
from pipeline.vocabulary import ArtifactRef

QUEUED = 8
"""Pieces that wait; with pieces of 1 MiB as much as one part of an upload."""
POLL_S = 0.5
"""How soon who writes notices that the upload has failed."""


class Discarded(Exception):
    """The bytes are not wanted any more."""


class Arriving:
    """See `pipeline.store.base.Incoming`.

    Args:
        key: where the bytes lie until they are published.
        send: stores a stream under a key.
        place: copies so many bytes from one key to another, within the store.
        remove: removes a key.
    """

    def __init__(
        self,
        key: str,
        send: Callable[[str, BinaryIO], None],
        place: Callable[[str, str, int], None],
        remove: Callable[[str], None],
    ) -> None:
        self._key, self._send, self._place, self._remove = key, send, place, remove
        self._pipe = _Pipe()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._sha256, self._size = hashlib.sha256(), 0

    def write(self, piece: bytes) -> None:
        """See `Incoming.write`."""
        self._sha256.update(piece)
        self._size += len(piece)
        self._hand_over(piece)

    def finish(self) -> tuple[str, int]:
        """See `Incoming.finish`."""
        self._hand_over(b"")
        if self._thread is not None:
            self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self._digest, self._size

    def publish(self, name: str, media_type: str) -> ArtifactRef:
        """See `Incoming.publish`."""
        key = keys.blob(self._digest)
        self._place(self._key, key, self._size)
        return ArtifactRef(name=name, digest=self._digest, key=key, size=self._size, media_type=media_type)

    def discard(self) -> None:
        """See `Incoming.discard`."""
        if self._thread is None:
            return
        self._pipe.close()
        self._thread.join()
        self._thread = None
        self._remove(self._key)

    @property
    def _digest(self) -> str:
        return f"sha256:{self._sha256.hexdigest()}"

    def _hand_over(self, piece: bytes) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="arriving", daemon=True)
            self._thread.start()
        while self._failure is None and not self._pipe.offer(piece):
            continue
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            self._send(self._key, cast(BinaryIO, self._pipe))
        except Exception as error:  # noqa: BLE001 - raised in the thread that writes
            self._failure = error


class _Pipe(io.RawIOBase):
    """What is offered in one thread is read in another; an empty piece ends it."""

    def __init__(self) -> None:
        self._pieces: queue.Queue[bytes] = queue.Queue(QUEUED)
        self._rest = memoryview(b"")
        self._ended = False
        self._discarded = threading.Event()

    def offer(self, piece: bytes) -> bool:
        """Whether there was room for it within `POLL_S`."""
        try:
            self._pieces.put(piece, timeout=POLL_S)
        except queue.Full:
            return False
        return True

    def close(self) -> None:
        """Let whoever reads fail."""
        self._discarded.set()

    def readable(self) -> bool:
        """Yes."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes; b"" at the end."""
        while not self._rest and not self._ended:
            self._rest = memoryview(self._next())
            self._ended = not self._rest
        piece, self._rest = self._rest[:size], self._rest[size:]
        return bytes(piece)

    def _next(self) -> bytes:
        while not self._discarded.is_set():
            try:
                return self._pieces.get(timeout=POLL_S)
            except queue.Empty:
                continue
        raise Discarded
