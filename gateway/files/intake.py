"""Reads uploads (multipart/form-data) into the store as they arrive, in memory of a few pieces whatever their size."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from gateway.errors import ApiError, Code, invalid
from gateway.files.kinds import ACCEPTED, HEAD_BYTES, detect
from gateway.validation import MULTIPART, require_type
from pipeline.errors import StoreError
from pipeline.store.base import Incoming, ObjectStore

log = structlog.get_logger(__name__)

PIECE_BYTES = 1 << 20
"""Handed to the store at a time."""
CHUNK_BYTES = 1 << 16
CHUNK_S = 20.0
"""A client that sends less than `CHUNK_BYTES` in this time (3 kB/s) is let go, lest a few hold all connections."""
MAX_FIELD_BYTES = 16_384
IDENTITY = {"7bit", "8bit", "binary"}
"""Encodings that change nothing (RFC 2045); old clients name one with each file."""
NOT_UTF8 = re.compile("[\ud800-\udfff]")
"""What bytes become in a header's text that are not UTF-8."""
MAX_PARTS = 128
MAX_ENVELOPE = 1 << 20
"""Bytes of everything but files in a request."""

POOL = ThreadPoolExecutor(32, "uploads")
"""Threads of their own: uploads to a slow store must not keep other requests from theirs."""

T = TypeVar("T")
Fits = Callable[[int], bool]


async def blocking(function: Callable[..., T], *arguments: object) -> T:
    """The result of a call that waits for the store on behalf of an upload."""
    return await asyncio.get_running_loop().run_in_executor(POOL, function, *arguments)


@dataclass(frozen=True)
class Arrived:
    """A file whose bytes are in the store, but not under their digest.

    Attributes:
        filename: as the client gave it.
        head: its first bytes.
    """

    filename: str
    incoming: Incoming
    digest: str
    size: int
    head: bytes


@dataclass(frozen=True)
class Bounds:
    """What may come at most: bytes of one file, of all that a user is sending (what is left of the quota), and files.

    Attributes:
        arriving: bytes that are just being read, by user; this request's are added.
    """

    user_id: str
    arriving: Counter[str]
    file_bytes: int
    quota_left: int
    files: int = 1


@dataclass
class Parcel:
    """What a request brought."""

    files: list[Arrived] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)


@asynccontextmanager
async def received(
    request: web.Request, store: ObjectStore, file_names: tuple[str, ...], bounds: Bounds
) -> AsyncIterator[Parcel]:
    """The parts of a request; what was not published of its files is removed at the end of the block.

    Args:
        file_names: of the fields that hold files.

    Raises:
        ApiError: 400 malformed or without a file; 408 too slow; 413 too large, at the first byte too many; 415.
    """
    require_type(request, MULTIPART)
    most = min(bounds.file_bytes * bounds.files, bounds.quota_left) + MAX_ENVELOPE
    if request.content_length is not None and request.content_length > most:
        raise _too_large(bounds, min(bounds.file_bytes * bounds.files, bounds.quota_left) == bounds.quota_left)
    begun: list[Incoming] = []
    try:
        with _counting(bounds) as fits:
            parcel = await _read(request, store, file_names, bounds, begun, fits)
        yield parcel
    finally:
        for incoming in begun:
            await asyncio.shield(_discard(incoming))


@contextmanager
def _counting(bounds: Bounds) -> Iterator[Fits]:
    """Counts a request's bytes while it is read, and tells whether the quota has room for all that the user sends."""
    size, arriving, user_id = 0, bounds.arriving, bounds.user_id

    def fits(more: int) -> bool:
        nonlocal size
        size += more
        arriving[user_id] += more
        return arriving[user_id] <= bounds.quota_left

    try:
        yield fits
    finally:
        arriving[user_id] -= size
        if not arriving[user_id]:
            del arriving[user_id]


async def _discard(incoming: Incoming) -> None:
    """What cannot be removed now is swept later; it must not turn the answer into an error."""
    try:
        await blocking(incoming.discard)
    except StoreError as error:
        log.warning("incoming file not removed", error=str(error))


async def _read(
    request: web.Request,
    store: ObjectStore,
    file_names: tuple[str, ...],
    bounds: Bounds,
    begun: list[Incoming],
    fits: Fits,
) -> Parcel:
    parcel = Parcel()
    try:
        reader = await request.multipart()
        async for name, part in _parts(reader):
            if name in file_names:
                if len(parcel.files) == bounds.files:
                    raise invalid({name: [f"At most {bounds.files} at once"]})
                incoming = await blocking(store.receive)
                begun.append(incoming)
                parcel.files.append(await _file(part, incoming, bounds, fits))
            elif part.filename:
                raise invalid({name: [f'Must not have a file name. Send files as "{file_names[0]}"']})
            elif name in parcel.fields:
                raise invalid({name: ["Must be given once"]})
            else:
                parcel.fields[name] = await _field(part)
    except TimeoutError:
        details = f"Send at least {CHUNK_BYTES} bytes in {CHUNK_S:.0f} seconds"
        raise ApiError(Code.VALIDATION_ERROR, "Request Timeout", details, status=408) from None
    except (
        ValueError,
        AssertionError,
        RuntimeError,
        web.RequestPayloadError,
        HttpProcessingError,
    ) as error:  # aiohttp's own checks of the format
        raise invalid({"body": ["Must be well-formed multipart/form-data"]}) from error
    if not parcel.files:
        raise invalid({file_names[0]: ["Required"]})
    return parcel


async def _parts(reader: MultipartReader) -> AsyncIterator[tuple[str, BodyPartReader]]:
    """The parts by their names. Raises `ApiError` 400 for one without, or too many."""
    number = 0
    while True:
        async with asyncio.timeout(CHUNK_S):
            part = await reader.next()
        if part is None:
            return
        number += 1
        if number > MAX_PARTS or not isinstance(part, BodyPartReader) or part.name is None:
            raise invalid({"body": [f"Must have at most {MAX_PARTS} parts, each with a name"]})
        if NOT_UTF8.search(part.name):
            raise invalid({"body": ["The names of its parts must be UTF-8"]})
        yield part.name, part


async def _file(part: BodyPartReader, incoming: Incoming, bounds: Bounds, fits: Fits) -> Arrived:
    encoded = part.headers.get("Content-Transfer-Encoding", "binary").lower() not in IDENTITY
    if encoded or "Content-Encoding" in part.headers:
        raise invalid({str(part.name): ["Must be sent as it is, without an encoding"]})
    head, piece, size = b"", bytearray(), 0
    async for chunk in _chunks(part):
        size += len(chunk)
        within = fits(len(chunk))
        if size > bounds.file_bytes or not within:
            raise _too_large(bounds, not within)
        if len(head) < HEAD_BYTES:
            head = (head + chunk)[:HEAD_BYTES]
            if len(head) == HEAD_BYTES and bounds.files == 1:  # of several, the others are worth reading on
                accepted(head, part.filename or "")
        piece += chunk
        if len(piece) >= PIECE_BYTES:
            await blocking(incoming.write, bytes(piece))
            piece.clear()
    if piece:
        await blocking(incoming.write, bytes(piece))
    digest, size = await blocking(incoming.finish)
    return Arrived(part.filename or "", incoming, digest, size, head)


async def _chunks(part: BodyPartReader) -> AsyncIterator[bytes]:
    """All bytes, in pieces of at least `CHUNK_BYTES` but for the last."""
    held = bytearray()
    ended = False
    while not ended:
        async with asyncio.timeout(CHUNK_S):
            while len(held) < CHUNK_BYTES and not ended:
                held += await part.read_chunk(CHUNK_BYTES)
                ended = part.at_eof()
        yield bytes(held)
        held.clear()


async def _field(part: BodyPartReader) -> str:
    raw = bytearray()
    async for chunk in _chunks(part):
        raw += chunk
        if len(raw) > MAX_FIELD_BYTES:
            raise invalid({str(part.name): [f"Must be at most {MAX_FIELD_BYTES} bytes"]})
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise invalid({str(part.name): ["Must be UTF-8"]}) from None


def accepted(head: bytes, filename: str) -> str:
    """The media type of a file (see `detect`). Raises `ApiError` 415 if it is none that may be uploaded."""
    media_type = detect(head, filename)
    if media_type is None:
        details = {"file": [f"Its content is none of: {', '.join(sorted(ACCEPTED))}"]}
        raise ApiError(Code.VALIDATION_ERROR, "Unsupported Media Type", details, status=415)
    return media_type


def _too_large(bounds: Bounds, by_quota: bool) -> ApiError:
    if by_quota:
        details = {"storage": [f"{bounds.quota_left} bytes are left of your quota, for all that you are sending"]}
    else:
        details = {"file": [f"Must be at most {bounds.file_bytes} bytes"]}
    return ApiError(Code.VALIDATION_ERROR, "Content Too Large", details, status=413)
