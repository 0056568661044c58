"""Downloads: every range, condition and variant against slices of the stored bytes."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientError, web
from hypothesis import given
from hypothesis import strategies as st

from gateway import media
from gateway.ranges import Span, UnsatisfiableError, matches, range_applies, requested
from tests.unit.gateway.support import API, MEDIA, PATIENCE_S, World, content, sha256, until
from tests.unit.gateway.test_api import error

SIZE = MEDIA["1080p.mp4"][1]


@given(size=st.integers(0, 300), start=st.integers(0, 400) | st.none(), end=st.integers(0, 400) | st.none())
def test_a_range_is_a_slice(size: int, start: int | None, end: int | None) -> None:
    data = bytes(n % 251 for n in range(size))
    header = f"bytes={'' if start is None else start}-{'' if end is None else end}"
    malformed = (start is None and end is None) or (start is not None and end is not None and end < start)
    if start is None:
        expected = data[max(size - (end or 0), 0) :]
    else:
        expected = data[start:] if end is None else data[start : end + 1]
    try:
        span = requested(header, size)
    except UnsatisfiableError:
        assert not malformed
        assert expected == b""
        return
    if malformed:
        assert span is None
        return
    assert span is not None
    assert data[span.start : span.start + span.length] == expected != b""
    assert span.content_range == f"bytes {span.start}-{span.start + len(expected) - 1}/{size}"


@pytest.mark.parametrize(
    "header",
    [None, "", "bytes", "bytes=", "bytes=-", "bytes=a-b", "items=0-1", "bytes=0-1,5-6", "bytes=٣-٤", "bytes=--1"],
)
def test_what_is_no_single_byte_range_means_the_whole(header: str | None) -> None:
    assert requested(header, 100) is None


@given(st.text(max_size=40))
def test_any_header_is_survived(header: str) -> None:
    for text in (header, f"bytes={header}"):
        try:
            span = requested(text, 100)
        except UnsatisfiableError:
            continue
        assert span is None or 0 <= span.start < span.start + span.length <= 100


def test_conditions() -> None:
    assert matches('"a", W/"b"', '"b"')
    assert matches(" * ", '"b"')
    assert not matches('"ab"', '"b"')
    assert not matches(None, '"b"')
    assert range_applies(None, '"b"')
    assert range_applies('"b"', '"b"')
    assert not range_applies('W/"b"', '"b"')
    assert not range_applies("Wed, 21 Oct 2026 07:28:00 GMT", '"b"')


async def test_the_whole_file_with_its_headers(world: World) -> None:
    job_id = await world.completed()
    response = await world.get(f"/videos/{job_id}/download")
    body = await response.read()
    expected = content(job_id, "1080p.mp4")
    assert (response.status, sha256(body)) == (200, sha256(expected))
    assert response.headers["ETag"] == f'"{sha256(expected)}"'
    assert response.headers["Accept-Ranges"] == "bytes"
    assert response.headers["Content-Type"] == "video/mp4"
    assert response.headers["Content-Length"] == str(SIZE)
    assert response.headers["Content-Disposition"] == f'attachment; filename="{job_id}-1080p.mp4"'
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["X-Request-ID"]


@pytest.mark.parametrize(
    ("query", "kind"),
    [("", "attachment"), ("?inline=true", "inline"), ("?inline=1", "inline"), ("?inline=false", "attachment")],
)
async def test_inline(world: World, query: str, kind: str) -> None:
    job_id = await world.completed()
    response = await world.get(f"/videos/{job_id}/download{query}", method="HEAD")
    assert response.headers["Content-Disposition"].split(";")[0] == kind


RANGES = [(0, 1), (0, SIZE), (1, 2), (SIZE - 1, SIZE), (1_000_000, 1_700_001), (65_535, 65_537), (5, SIZE)]


async def test_ranges_are_slices(world: World) -> None:
    job_id = await world.completed()
    expected = content(job_id, "1080p.mp4")
    for start, stop in RANGES:
        headers = {"Range": f"bytes={start}-{stop - 1}"}
        response = await world.get(f"/videos/{job_id}/download", **headers)
        assert response.status == 206
        assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
        assert await response.read() == expected[start:stop]
    for header, wanted in (("bytes=-7", expected[-7:]), ("bytes=2499990-", expected[-10:])):
        response = await world.get(f"/videos/{job_id}/stream", Range=header)
        assert (response.status, await response.read()) == (206, wanted)
    whole = await world.get(f"/videos/{job_id}/download", Range="bytes=0-1,5-9")
    assert (whole.status, len(await whole.read())) == (200, SIZE)


async def test_an_unsatisfiable_range_is_416(world: World) -> None:
    job_id = await world.completed()
    response = await world.get(f"/videos/{job_id}/download", Range=f"bytes={SIZE}-")
    await error(response, 416, "VALIDATION_ERROR")
    assert response.headers["Content-Range"] == f"bytes */{SIZE}"


async def test_conditional_requests(world: World) -> None:
    job_id = await world.completed()
    path = f"/videos/{job_id}/download"
    etag = (await world.get(path, method="HEAD")).headers["ETag"]
    for value in (etag, f'"other", W/{etag}', "*"):
        response = await world.get(path, If_None_Match=value)
        assert (response.status, await response.read(), response.headers["ETag"]) == (304, b"", etag)
    assert (await world.get(path, If_None_Match='"other"')).status == 200
    for value, status in ((etag, 206), ('"other"', 200), (f"W/{etag}", 200)):
        response = await world.get(path, Range="bytes=0-9", If_Range=value)
        assert (response.status, len(await response.read())) == (status, 10 if status == 206 else SIZE)


@pytest.mark.parametrize("part", ["download", "stream", "thumbnail"])
async def test_head_has_the_headers_of_get_and_no_body(world: World, part: str) -> None:
    job_id = await world.completed()
    head = await world.get(f"/videos/{job_id}/{part}", method="HEAD")
    get = await world.get(f"/videos/{job_id}/{part}")
    for name in ("ETag", "Content-Type", "Content-Length", "Content-Disposition", "Accept-Ranges"):
        assert head.headers[name] == get.headers[name]
    assert (head.status, await head.read(), len(await get.read())) == (200, b"", int(get.headers["Content-Length"]))


async def test_variants_are_the_files_of_their_names(world: World) -> None:
    job_id = await world.completed()
    for query, name in {
        "stream": "1080p.mp4",
        "stream?quality=auto": "1080p.mp4",
        "stream?quality=720p": "720p.mp4",
        "stream?quality=1080p": "1080p.mp4",
        "thumbnail": "poster-medium.jpg",
        "thumbnail?size=small": "poster-small.jpg",
        "thumbnail?size=large": "poster-large.jpg",
    }.items():
        response = await world.get(f"/videos/{job_id}/{query}")
        assert await response.read() == content(job_id, name), query
        assert response.headers["Content-Type"] == MEDIA[name][0]
        assert response.headers["Content-Disposition"].startswith("inline")


async def test_above_the_top_rung_is_the_top_rung(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(MEDIA, "1080p.mp4")
    job_id = await world.completed()
    response = await world.get(f"/videos/{job_id}/stream?quality=1080p")
    assert await response.read() == content(job_id, "720p.mp4")


async def test_many_clients_at_once_get_their_own_bytes(world: World) -> None:
    jobs = [await world.completed() for _ in range(3)]

    async def fetch(n: int) -> bool:
        response = await world.get(f"/videos/{jobs[n % 3]}/download", Range=f"bytes={n}-{n + 99_999}")
        return await response.read() == content(jobs[n % 3], "1080p.mp4")[n : n + 100_000]

    assert all(await asyncio.gather(*(fetch(n) for n in range(24))))


async def test_a_client_that_leaves_breaks_nothing(world: World) -> None:
    job_id = await world.completed()
    response = await world.get(f"/videos/{job_id}/download")
    await response.content.readexactly(10)
    response.close()
    again = await world.get(f"/videos/{job_id}/download")
    assert hashlib.sha256(await again.read()).hexdigest() == again.headers["ETag"].strip('"')


LARGE = 20_000_000
"""Bytes; more than the kernel takes for a client that does not read."""
POOL = 100
"""Connections that aiohttp's client has at most unless it is told otherwise."""


@asynccontextmanager
async def fetching(world: World, path: str) -> AsyncIterator[asyncio.StreamReader]:
    """A client with small buffers that has asked, and read nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", world.client.port))
    reader, writer = await asyncio.open_connection(sock=client, limit=1 << 12)
    writer.write(f"GET {API}{path} HTTP/1.1\r\nHost: t2m\r\nAuthorization: Bearer {world.token()}\r\n\r\n".encode())
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield reader
    finally:
        writer.transport.abort()


async def idle(world: World) -> None:
    """Returns when no request is under way."""

    async def ended() -> bool | None:
        return world.gateway.traffic.under_way == 0 or None

    await until(ended)


async def large(world: World, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of a large download."""
    monkeypatch.setitem(MEDIA, "1080p.mp4", ("video/mp4", LARGE))
    return f"/videos/{await world.completed()}/download"


async def test_clients_that_do_not_read_hold_up_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = await large(world, monkeypatch)
    async with AsyncExitStack() as stack:
        for _ in range(POOL + 1):
            reader = await stack.enter_async_context(fetching(world, path))
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        assert len(await (await world.get(path)).read()) == LARGE


async def test_a_client_that_takes_nothing_is_let_go_and_a_slow_one_is_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await large(world, monkeypatch)
    monkeypatch.setattr(media, "UNREAD_MS", 1000)
    async with fetching(world, path) as reader:
        await reader.readuntil(b"\r\n\r\n")
        await idle(world)
    async with fetching(world, path) as reader:
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(12):  # for three times as long
            await reader.readexactly(1 << 16)
            await asyncio.sleep(0.25)
        await reader.readexactly(LARGE - (12 << 16))


async def test_a_client_that_left_before_the_answer_is_no_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = await world.completed()
    real, looking, left = world.store.local_path, asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def look(key: str) -> Any:
        loop.call_soon_threadsafe(looking.set)
        left.wait(PATIENCE_S)
        return real(key)

    monkeypatch.setattr(world.store, "local_path", look)
    server = world.client.server.runner.server  # type: ignore[attr-defined]
    monkeypatch.setattr(server, "handler_cancellation", False)  # as it is but in tests
    before = set(server.connections)
    async with fetching(world, f"/videos/{job_id}/download"):
        await looking.wait()
        its = set(server.connections) - before

    async def gone() -> bool | None:
        return all(one.transport is None for one in its) or None

    await until(gone)
    left.set()
    await idle(world)
    assert world.gateway.traffic.view(1)["errors"] == 0


async def test_a_client_that_leaves_with_the_header_is_no_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = await world.completed()
    real = web.StreamResponse.prepare

    async def reset(response: web.StreamResponse, request: Any) -> Any:
        writer = await real(response, request)
        request.transport.abort()  # as a write does that finds the connection reset
        return writer

    monkeypatch.setattr(web.StreamResponse, "prepare", reset)
    with pytest.raises(ClientError):
        await (await world.get(f"/videos/{job_id}/download")).read()
    await idle(world)
    assert world.gateway.traffic.view(1)["errors"] == 0


async def test_a_lost_blob_is_an_error_with_no_half_answer(world: World) -> None:
    job_id = await world.completed()
    blob = next(info for info in world.store.list("blobs/") if info.size == SIZE)
    world.store.delete(blob.key)
    await error(await world.get(f"/videos/{job_id}/download"), 500, "SERVER_ERROR")


def test_a_span_is_written_as_the_rfc_wants() -> None:
    assert Span(0, 500, 1234).content_range == "bytes 0-499/1234"
