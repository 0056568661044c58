"""Looks into one file: `python -I -m gateway.inspection.child MEDIA_TYPE SIZE`.

Reads the file through the socket that is its standard input, and answers on its standard output: a line of JSON with
`details` and the lengths of `thumbnails`, then these. It trusts the file with nothing: before the first byte is read it
gives up the right to open anything (`RLIMIT_NOFILE` 0: no file, no socket, no pipe), to start processes or threads, to
write files, and to use more than so much memory and processor time. A demuxer that is talked into opening another file
or an address fails to; a decoder that is talked into more than that runs where there is nothing to take.
"""

from __future__ import annotations

import io
import json
import os
import resource
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image

from gateway.inspection import documents, moving, pictures
from gateway.inspection.protocol import MAX_PIECE, REQUEST

MEMORY_BYTES = 1 << 30
"""Of address space: a picture of `pictures.MAX_PIXELS`, twice, and the libraries."""
CPU_S = 20
BUFFER_BYTES = 1 << 18

Result = tuple[dict[str, Any], Image.Image | None]
Look = Callable[[io.BufferedReader, str], Result]

LOOKS: dict[str, Look] = {
    "application/pdf": documents.pdf,
    "application/vnd.": documents.office,
    "application/epub": documents.office,
    "application/json": documents.text,
    "application/xml": documents.text,
    "text/": documents.text,
    "image/svg": documents.text,
    "image/": pictures.picture,
    "video/": moving.media,
    "audio/": moving.media,
}
"""By the beginning of the media type; the first that fits."""


class Remote(io.RawIOBase):
    """The file at the other end of the socket."""

    def __init__(self, connection: socket.socket, size: int) -> None:
        self._connection, self._size, self._position = connection, size, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next bytes are read."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move there."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("before the file's beginning")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        """Fill a buffer as far as possible."""
        length = max(min(len(buffer), MAX_PIECE, self._size - self._position), 0)
        if not length:
            return 0
        self._connection.sendall(REQUEST.pack(self._position, length))
        view = memoryview(buffer)[:length]
        while view and (count := self._connection.recv_into(view)):
            view = view[count:]
        if view:
            raise OSError("the gateway gives no more")
        self._position += length
        return length


def confine() -> None:
    """Give up everything that is not needed from here on."""
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        resource.setrlimit(limit, (value, value))


def look(media_type: str, file: io.BufferedReader) -> tuple[dict[str, Any], Mapping[str, bytes]]:
    """What is in the file; a file that cannot be read has an `error` in its details."""
    chosen = next((one for beginning, one in LOOKS.items() if media_type.startswith(beginning)), None)
    if chosen is None:
        return {}, {}
    try:
        details, picture = chosen(file, media_type)
    except Exception as error:  # noqa: BLE001 - hostile files fail in every way there is
        print(repr(error)[:500], file=sys.stderr)  # noqa: T201 - for the gateway's log
        return {"error": f"It cannot be read as {media_type}"}, {}
    return details, {} if picture is None else pictures.thumbnails(picture)


def main() -> None:
    """Answer, and end."""
    media_type, size = sys.argv[1], int(sys.argv[2])
    documents.preload()
    pictures.preload()
    moving.preload()
    connection = socket.socket(fileno=0)
    confine()
    details, thumbnails = look(media_type, io.BufferedReader(Remote(connection, size), BUFFER_BYTES))
    head = {"details": details, "thumbnails": {name: len(data) for name, data in thumbnails.items()}}
    sys.stdout.buffer.write(json.dumps(head, allow_nan=False).encode() + b"\n" + b"".join(thumbnails.values()))
    sys.stdout.flush()
    os._exit(0)  # nothing is left to clean up, and libraries would try to


if __name__ == "__main__":
    main()
