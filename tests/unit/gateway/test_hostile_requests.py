"""Requests that mean harm by their form: smuggled headers, bodies without an end, clients that take for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import quote

import pytest
from aiohttp import web

from gateway import openapi, serve, validation
from gateway.auth.base import Role
from gateway.openapi import VARIABLE, Route
from tests.unit.gateway.support import API, World
from tests.unit.gateway.test_api import error
from tests.unit.gateway.uploading import upload

SMUGGLED = "x\r\nX-Smuggled: 1\r\n\r\n<script>"
CHUNK = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
PATIENCE_S = 60.0


def routes(world: World) -> list[Route]:
    app = world.client.app
    assert isinstance(app, web.Application)
    return openapi.routes(app)


async def test_nothing_a_client_sends_becomes_a_header(world: World) -> None:
    for route in routes(world):
        path = VARIABLE.sub(quote(SMUGGLED, safe=""), route.path)
        names = route.contract.query.model_fields if route.contract.query else {"any": None}
        query = "&".join(f"{name}={quote(SMUGGLED, safe='')}" for name in names)
        raw = f"{route.method} {path}?{query} HTTP/1.1\r\nHost: t2m\r\nConnection: close\r\n"
        raw += f"Authorization: Bearer {world.token()}\r\nOrigin: https://{quote(SMUGGLED)}\r\n"
        async with connected(world) as (reader, writer):
            writer.write(f"{raw}Content-Length: 0\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
        assert b"x-smuggled" not in head.lower(), route.path
        assert int(head.split()[1]) < 500, route.path


async def test_a_body_without_an_end_is_cut_off(world: World) -> None:
    bodies = [route for route in routes(world) if route.contract.body or route.contract.form]
    assert len(bodies) > 5
    for route in bodies:
        kind = "application/json" if route.contract.body else "application/x-www-form-urlencoded"
        status, sent = await flood(world, route, kind)
        assert (status, sent < 64 * validation.MAX_BODY) == (413, True), route.path


async def test_a_body_that_says_it_is_too_long_is_not_read(world: World) -> None:
    head = f"POST {API}/videos/generate HTTP/1.1\r\nHost: t2m\r\nAuthorization: Bearer {world.token()}\r\n"
    async with connected(world) as (reader, writer):
        writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {1 << 40}\r\n\r\n".encode())
        assert await status(reader) == 413


async def test_json_nested_without_end_is_refused(world: World) -> None:
    bodies = [route for route in routes(world) if route.contract.body]
    assert len(bodies) > 5
    headers = world.headers(**{"Content-Type": "application/json", "Idempotency-Key": "k"})
    for route in bodies:
        for levels in (300, 960, 100_000):
            body = f'{{"metadata": {"[" * levels}{"]" * levels}}}'
            response = await world.client.request(
                route.method, VARIABLE.sub("x", route.path), data=body, headers=headers
            )
            told = await error(response, 400, "VALIDATION_ERROR")
            assert told["details"] == {"body": [f"Must be nested at most {validation.MAX_DEPTH} deep"]}, route.path


async def test_a_host_that_is_no_text_is_written_as_a_url_has_it(world: World) -> None:
    path = f"{API}/files/{(await upload(world))['id']}/signed-url"
    head = f"POST {path} HTTP/1.1\r\nAuthorization: Bearer {world.token()}\r\nConnection: close\r\nHost: caf"
    async with connected(world) as (reader, writer):
        writer.write(head.encode() + b"\xe9:8080\r\nContent-Length: 0\r\n\r\n")
        assert f'"url":"http://caf%E9:8080{API}/files/secure/'.encode() in await reader.read()


async def test_a_body_nobody_asked_for_keeps_nobody(world: World) -> None:
    (route,) = (route for route in routes(world) if (route.method, route.path) == ("GET", f"{API}/jobs"))
    assert (await flood(world, route, "application/json"))[0] == 200


async def test_a_body_that_takes_for_ever_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "BODY_S", 0.3)
    head = f"POST {API}/videos/generate HTTP/1.1\r\nHost: t2m\r\nAuthorization: Bearer {world.token()}\r\n"
    async with connected(world) as (reader, writer):
        writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
        assert await status(reader) == 408


HEAD = f"GET {API}/models HTTP/1.1\r\nHost: t2m\r\n".encode()
NO_REQUESTS = {
    "long line": HEAD.replace(b"models", b"models?" + b"x" * 8200),
    "long header": HEAD + b"X: " + b"x" * 8200 + b"\r\n",
    "no URL": HEAD.replace(b"models", b"\x01"),
}


@pytest.mark.parametrize("sent", NO_REQUESTS.values(), ids=NO_REQUESTS)
async def test_what_is_no_request_is_refused_in_plain_text(world: World, sent: bytes) -> None:
    async with connected(world) as (reader, writer):
        writer.write(sent + b"\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert head.split()[1] == b"400"
    assert b"Content-Type: text/plain" in head
    assert body


FIRST = b"GET /metrics HTTP/1.1\r\nHost: t2m\r\n\r\n"
BEGUN = b"GET / HTTP/1.1\r\nHost: t2m\r\nX: "


@pytest.mark.parametrize("begun", [b"", BEGUN, FIRST, FIRST + BEGUN], ids=["none", "first", "no second", "second"])
async def test_headers_that_take_for_ever_are_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(serve, "IDLE_S", 0.5)
    listening = asyncio.Queue[str]()
    settings = world.settings.model_copy(update={"gateway": world.settings.gateway.model_copy(update={"port": 0})})
    app = web.Application()
    app.router.add_get("/metrics", answer)
    serving = asyncio.create_task(serve._serve(app, settings, listening.put_nowait))
    port = int((await listening.get()).rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(begun)
    began = time.monotonic()
    dripping = asyncio.create_task(drip(writer)) if begun.endswith(BEGUN) else None
    async with asyncio.timeout(PATIENCE_S):
        with suppress(ConnectionResetError):
            while await reader.read(1 << 16):
                pass
    assert 0.4 < time.monotonic() - began < PATIENCE_S
    for task in filter(None, (dripping, serving)):
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def answer(request: web.Request) -> web.Response:
    return web.Response()


async def drip(writer: asyncio.StreamWriter) -> None:
    """A byte of a header now and then."""
    while True:
        writer.write(b"x")
        await asyncio.sleep(0.05)


@asynccontextmanager
async def connected(world: World) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.client.port)
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield reader, writer
    finally:
        writer.close()


async def status(reader: asyncio.StreamReader) -> int:
    return int((await reader.readuntil(b"\r\n\r\n")).split()[1])


async def flood(world: World, route: Route, kind: str) -> tuple[int, int]:
    """Send a body that never ends; returns the answer's status and how much was sent before it came."""
    path = VARIABLE.sub("x", route.path)
    head = f"{route.method} {path} HTTP/1.1\r\nHost: t2m\r\nAuthorization: Bearer {world.token('root', Role.ADMIN)}\r\n"
    sent = 0

    async with connected(world) as (reader, writer):

        async def send() -> None:
            nonlocal sent
            while True:
                writer.write(CHUNK)
                await writer.drain()
                sent += len(CHUNK)

        writer.write(f"{head}Content-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        sending = asyncio.create_task(send())
        try:
            return await status(reader), sent
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
