"""Starts `gateway.inspection.child` and hands it the file, piece by piece, over a socket: it opens nothing itself."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import structlog

from gateway.inspection.protocol import MAX_PIECE, REQUEST, SIZES
from pipeline.errors import StoreError
from pipeline.store.base import ObjectStore
from pipeline.vocabulary import ArtifactRef

log = structlog.get_logger(__name__)

LIMIT_S = 30.0
"""Wall time of one inspection."""
READ_S = 10.0
"""Of one read of at most `MAX_PIECE` bytes: a store that takes longer is at fault, not the file."""
MAX_READ = 1 << 30
"""Bytes a child may ask for, repeated ones included; containers are read at their ends and in a few places."""
MAX_RESULT = 16 << 20
MAX_DETAILS = 1 << 16
MAX_COMPLAINT = 2000


@dataclass(frozen=True)
class Findings:
    """What was found in a file.

    Attributes:
        details: JSON values; `error` says what is wrong with a file that cannot be read.
        thumbnails: JPEGs by the names of their sizes.
    """

    readable: bool
    details: Mapping[str, Any] = field(default_factory=dict)
    thumbnails: Mapping[str, bytes] = field(default_factory=dict)


async def inspect(store: ObjectStore, ref: ArtifactRef) -> Findings:
    """Look into a stored file; whatever is in it, the answer comes within `LIMIT_S`.

    Raises:
        StoreError, ObjectMissing: it could not be read from the store, or not in time.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-m", "gateway.inspection.child", ref.media_type, str(ref.size)),
            stdin=theirs.fileno(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},  # no secrets
            process_group=0,
        )
    reading = asyncio.create_task(_serve_reads(ours, store, ref))
    try:
        async with asyncio.timeout(LIMIT_S):
            result, complaint = await asyncio.gather(_all(process.stdout, MAX_RESULT), _all(process.stderr, 1 << 20))
            code = await process.wait()
        if reading.done():
            reading.result()  # the store's error, if that is why it ended
        return _findings(code, result, complaint, ref)
    except TimeoutError:
        return Findings(False, {"error": "It takes too long to read"})
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.communicate()
        reading.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await reading


async def _serve_reads(ours: socket.socket, store: ObjectStore, ref: ArtifactRef) -> None:
    """Answer the child until it ends. Raises `StoreError`."""
    reader, writer = await asyncio.open_connection(sock=ours)
    left = MAX_READ
    try:
        while left > 0:
            start, length = REQUEST.unpack(await reader.readexactly(REQUEST.size))
            length = min(length, MAX_PIECE, ref.size - start)
            if length <= 0:
                return
            left -= length
            try:
                async with asyncio.timeout(READ_S):
                    piece = await asyncio.to_thread(lambda: b"".join(store.read(ref.key, start, length)))  # noqa: B023
            except TimeoutError:
                raise StoreError("The store takes too long to answer.") from None
            writer.write(piece)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        return  # the child has ended
    finally:
        writer.close()


async def _all(stream: asyncio.StreamReader | None, most: int) -> bytes:
    """What the child says, at most so many bytes; what comes after them is thrown away."""
    data = bytearray()
    while stream is not None and (piece := await stream.read(1 << 16)):
        data += piece[: most - len(data)]
    return bytes(data)


def _findings(code: int, result: bytes, complaint: bytes, ref: ArtifactRef) -> Findings:
    """The child's answer, believed no further than its form."""
    try:
        if code:
            raise ValueError(f"it ended with {code}")
        head, _, rest = result.partition(b"\n")
        told = json.loads(head[:MAX_DETAILS])
        details, lengths, thumbnails = dict(told["details"]), dict(told["thumbnails"]), {}
        for name, length in lengths.items():
            thumbnails[name], rest = rest[: int(length)], rest[int(length) :]
        if set(thumbnails) - set(SIZES) or any(data[:3] != b"\xff\xd8\xff" for data in thumbnails.values()):
            raise ValueError("it made no pictures")
        return Findings("error" not in details, details, thumbnails)
    except (ValueError, TypeError, KeyError, RecursionError, struct.error) as error:
        words = complaint.decode("utf-8", "replace")[-MAX_COMPLAINT:]
        log.info("inspection failed", media_type=ref.media_type, error=str(error), complaint=words)
        return Findings(False, {"error": f"It cannot be read as {ref.media_type}"})
