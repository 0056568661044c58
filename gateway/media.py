"""Hands the bytes of stored artifacts to clients without holding them in memory."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import structlog
from aiohttp import web

from gateway import ranges
from gateway.contract import Header
from gateway.errors import ApiError, Code
from gateway.files.kinds import INLINE
from gateway.files.names import disposition
from gateway.ranges import Span, UnsatisfiableError
from pipeline.errors import ObjectMissing, StoreError
from pipeline.store.base import ObjectStore
from pipeline.vocabulary import ArtifactRef

log = structlog.get_logger(__name__)

CHUNK = 1 << 18
"""Bytes moved at a time from a remote store."""
STORE_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=30)
"""Bounds each wait for the store; a slow client may take as long as it likes."""
UNREAD_MS = 60_000
"""A client that takes no bytes for so long is let go. The kernel sees to it, at no cost for each piece."""

CACHING = "private, no-cache"
"""Kept by the client, which asks each time whether it still may."""
POLICY = "default-src 'none'; sandbox"
"""Of a type that browsers might run: whatever it says, nothing of it is run, and nothing loaded for it."""
RANGED: dict[str, Any] = {
    "headers": [
        Header("Range", "Only these bytes.", {"type": "string"}),
        Header("If-Range", "The range only of this version, else the whole.", {"type": "string"}),
        Header("If-None-Match", "Nothing (304) of this version.", {"type": "string"}),
    ],
    "also": [206, 304],
    "errors": [416],
}
"""For `gateway.contract.operation`: what `Media.serve` reads and answers."""


class Media:
    """Serves artifacts of one store: files by `sendfile`, remote objects by passing on what the store sends."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        connector = aiohttp.TCPConnector(limit=0)  # one for each client that reads: no download waits for another
        self._session = aiohttp.ClientSession(connector=connector, timeout=STORE_TIMEOUT, auto_decompress=False)

    async def close(self) -> None:
        """Release the connections to the store."""
        await self._session.close()

    async def serve(
        self, request: web.Request, ref: ArtifactRef, filename: str, *, inline: bool, charset: str | None = None
    ) -> web.StreamResponse:
        """Answer a GET or HEAD for `ref`: 200, 206 or 304.

        Args:
            charset: of a text, where it is known.

        Raises:
            ApiError: 416.
            StoreError: the store cannot be reached.
            ObjectMissing: the store has lost the blob.
        """
        etag = _etag(ref)
        headers = {"ETag": etag, "Cache-Control": CACHING, "Accept-Ranges": "bytes"}
        if ranges.matches(request.headers.get("If-None-Match"), etag):
            return web.Response(status=304, headers=headers)
        span = _span(request, etag, ref.size)
        headers |= _described(ref, filename, inline=inline, charset=charset)
        if span is not None:
            headers["Content-Range"] = span.content_range
        response = web.StreamResponse(status=200 if span is None else 206, headers=headers)
        response.content_length = ref.size if span is None else span.length
        if request.method == "HEAD":
            with _sending(request):
                await response.prepare(request)
            return response
        return await self._send(request, response, ref, span or Span(0, ref.size, ref.size))

    async def text(self, request: web.Request, ref: ArtifactRef, filename: str) -> web.Response:
        """Answer a GET or HEAD for a small text, whole, so that it may be compressed: 200 or 304.

        Raises:
            StoreError: the store cannot be reached.
            ObjectMissing: the store has lost the blob.
        """
        etag = _etag(ref)
        headers = {"ETag": f"W/{etag}", "Cache-Control": CACHING}  # weak: the same, compressed or not
        if ranges.matches(request.headers.get("If-None-Match"), etag):
            return web.Response(status=304, headers=headers | {"Vary": "Accept-Encoding"})
        content, _ = await asyncio.to_thread(self._store.get, ref.key)
        return web.Response(body=content, headers=headers | _described(ref, filename, inline=True))

    def begins(self, request: web.Request, ref: ArtifactRef) -> bool:
        """Whether `serve` would send the file's beginning: what comes after it is the same fetch going on.

        Raises:
            ApiError: 416.
        """
        if request.method != "GET" or ranges.matches(request.headers.get("If-None-Match"), _etag(ref)):
            return False
        span = _span(request, _etag(ref), ref.size)
        return span is None or span.start == 0

    async def _send(
        self, request: web.Request, response: web.StreamResponse, ref: ArtifactRef, span: Span
    ) -> web.StreamResponse:
        if (path := await asyncio.to_thread(self._store.local_path, ref.key)) is not None:
            return await _send_file(request, response, path, span)
        url = await asyncio.to_thread(self._store.url_for, ref.key)
        if url is None:
            raise TypeError(f"{type(self._store).__name__} offers neither files nor URLs")
        return await self._relay(request, response, url, span)

    async def _relay(
        self, request: web.Request, response: web.StreamResponse, url: str, span: Span
    ) -> web.StreamResponse:
        async with _opened(self._session, url, span) as source:
            with _sending(request):
                await response.prepare(request)
                async for piece in source.content.iter_chunked(CHUNK):
                    await response.write(piece)
                await response.write_eof()
        return response


@asynccontextmanager
async def _opened(session: aiohttp.ClientSession, url: str, span: Span) -> AsyncIterator[aiohttp.ClientResponse]:
    headers = {} if span.length == span.size else {"Range": f"bytes={span.start}-{span.start + span.length - 1}"}
    try:
        response = await session.get(url, headers=headers)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise StoreError("The object store cannot be reached.") from error
    async with response:
        if response.status == 404:
            raise ObjectMissing("The object store has lost a published file.")
        if response.content_length != span.length:
            raise StoreError(f"The object store answered {response.status} to a read.")
        yield response


@contextmanager
def _sending(request: web.Request) -> Iterator[None]:
    """Only a closed connection can tell the client that the body is not whole; a client that has left is no error."""
    transport = request.transport
    try:
        if transport is not None:
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS)
        yield
    except (OSError, aiohttp.ClientError) as error:
        log.info("transfer broken off", error=repr(error))
        if transport is not None:
            transport.abort()


def _described(ref: ArtifactRef, filename: str, *, inline: bool, charset: str | None = None) -> dict[str, str]:
    headers = {
        "Content-Disposition": disposition(filename, inline=inline),
        "Content-Type": ref.media_type if charset is None else f"{ref.media_type}; charset={charset}",
    }
    return headers if ref.media_type in INLINE else headers | {"Content-Security-Policy": POLICY}


def _etag(ref: ArtifactRef) -> str:
    return f'"{ref.digest.removeprefix("sha256:")}"'


def _span(request: web.Request, etag: str, size: int) -> Span | None:
    if request.method != "GET" or not ranges.range_applies(request.headers.get("If-Range"), etag):
        return None
    try:
        return ranges.requested(request.headers.get("Range"), size)
    except UnsatisfiableError:
        details = {"Range": [f"Must lie within the {size} bytes of the file"]}
        headers = {"Content-Range": f"bytes */{size}", "Accept-Ranges": "bytes"}
        raise ApiError(Code.VALIDATION_ERROR, "Range Not Satisfiable", details, status=416, headers=headers) from None


async def _send_file(request: web.Request, response: web.StreamResponse, path: Path, span: Span) -> web.StreamResponse:
    file = await asyncio.to_thread(path.open, "rb")
    with file, _sending(request):
        await response.prepare(request)
        transport = request.transport
        if span.length and transport is not None and not transport.is_closing():
            await asyncio.get_running_loop().sendfile(transport, file, span.start, span.length)
        await response.write_eof()
    return response
