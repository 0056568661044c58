"""Bench (d): the gateway beside bare parts, on PostgreSQL, Redis, RabbitMQ and S3, and embedded.

    details   GET /jobs/{id} per second ÷ a bare aiohttp handler that answers the same bytes
    submits   jobs accepted durably per second, beside bare SQL inserts; then jobs relayed to the broker per second,
              beside bare confirmed publishes
    downloads a file of 1 GB ÷ a bare aiohttp handler that passes on the same object of S3; and how far memory grows,
              also while the file is uploaded
    streams   2,000 open event streams on 20 live jobs at 2 events a second each: delay from the event's making

    python -m benchmarks.gateway [details|submits|downloads|streams …] [--json FILE]

Gateways and the bare handler run in processes of their own; the client is one more. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
from aiohttp import web

from config import settings as configuration
from config.catalogue import Catalogue
from config.settings import Settings
from gateway.app import create_app
from gateway.auth.local import LocalAuthenticator
from gateway.serve import run, run_gateway
from pipeline.broker import open_broker
from pipeline.bus.factory import open_publisher, open_subscriber
from pipeline.bus.memory import MemoryBus
from pipeline.dispatch import first_message, send
from pipeline.store.factory import open_store
from pipeline.vocabulary import Event, EventKind, Heartbeat, Stage, new_id, now
from tests.services import Services, free_port
from tests.small_stages import job

API = "/api/v1"
ROUNDS = 5
REQUESTS, CONNECTIONS = 2000, 8
SUBMITS, SUBMITTERS = 600, 32
FILE_BYTES, PIECE = 10**9, 1 << 20
DOWNLOADS = 7
STREAMS, JOBS, EVENTS_PER_S, SECONDS = 2000, 20, 2, 20
MIN_RATIO = {"servers": 0.25, "embedded": 0.4}
MIN_DOWNLOAD_RATIO = 0.8
MAX_GROWTH_MIB = 100
MIN_PER_S = 150
MAX_P99_S = 1.0


@dataclass
class Answer:
    status: int
    body: bytes


class Client:
    """One keep-alive connection that does nothing but bytes, so that the server is what is measured."""

    def __init__(self, port: int, token: str) -> None:
        self._port, self._token = port, token

    async def __aenter__(self) -> Client:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def ask(self, method: str, path: str, body: bytes = b"") -> Answer:
        self._writer.write(self._head(method, path, body) + body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        return Answer(int(head.split()[1]), await self._reader.readexactly(length))

    async def stream(self, path: str, took: list[float]) -> None:
        """Read events for ever; notes how old each was."""
        self._writer.write(self._head("GET", path, b""))
        await self._reader.readuntil(b"\r\n\r\n")
        while line := await self._reader.readline():
            if line.startswith(b"data: "):
                took.append(time.time() - float(json.loads(line[6:])["message"]))

    async def download(self, path: str) -> float:
        """Bytes per second of a whole file, which is thrown away."""
        began = time.perf_counter()
        self._writer.write(self._head("GET", path, b""))
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        size = left = int(head.split("content-length: ")[1].split("\r\n")[0])
        while left:
            piece = await self._reader.read(min(PIECE, left))
            assert piece, "the connection broke"
            left -= len(piece)
        return size / (time.perf_counter() - began)

    async def upload(self, size: int) -> str:
        """The id of a file of that size: text at its beginning, then what cannot be compressed."""
        disposition = 'Content-Disposition: form-data; name="file"; filename="large.txt"'
        before, after = f"--x\r\n{disposition}\r\n\r\n".encode(), b"\r\n--x--\r\n"
        length = len(before) + size + len(after)
        fields = f"Host: localhost\r\nAuthorization: Bearer {self._token}\r\nContent-Length: {length}"
        kind = "Content-Type: multipart/form-data; boundary=x"
        self._writer.write(f"POST {API}/files/upload HTTP/1.1\r\n{fields}\r\n{kind}\r\n\r\n".encode() + before)
        random = os.urandom(PIECE)
        for start in range(0, size, PIECE):
            self._writer.write((b"t" * PIECE if start == 0 else random)[: size - start])
            await self._writer.drain()
        self._writer.write(after)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        body = await self._reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
        assert head.split()[1] == "201", body
        return str(json.loads(body)["data"]["id"])

    def _head(self, method: str, path: str, body: bytes) -> bytes:
        fields = f"Host: localhost\r\nAuthorization: Bearer {self._token}\r\nContent-Length: {len(body)}"
        return f"{method} {API}{path} HTTP/1.1\r\n{fields}\r\nContent-Type: application/json\r\n\r\n".encode()


def serve_gateway(settings: Settings) -> None:
    silence()
    run_gateway(settings, Catalogue.load())


def serve_embedded(settings: Settings) -> None:
    silence()
    bus = MemoryBus()
    app = create_app(
        settings,
        store=open_store(settings),
        broker=open_broker(settings),
        subscribe=lambda: open_subscriber(settings, memory=bus),
        catalogue=Catalogue.load(),
    )
    run(app, settings)


def serve_bare(settings: Settings, body: bytes) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_get(API + "/jobs/{job_id}", answer)
    serve_plainly(app, settings)


def serve_bare_object(settings: Settings, key: str) -> None:
    """What anybody would write: the object of the store, passed on piece by piece."""
    url = open_store(settings).url_for(key)
    assert url is not None

    async def answer(request: web.Request) -> web.StreamResponse:
        async with aiohttp.ClientSession() as session, session.get(url) as source:
            response = web.StreamResponse()
            response.content_length = source.content_length
            await response.prepare(request)
            async for piece in source.content.iter_chunked(1 << 18):
                await response.write(piece)
            await response.write_eof()
            return response

    app = web.Application()
    app.router.add_get(API + "/files/{file_id}/download", answer)
    serve_plainly(app, settings)


def serve_plainly(app: web.Application, settings: Settings) -> None:
    web.run_app(app, host="127.0.0.1", port=settings.gateway.port, print=None, access_log=None)


def silence() -> None:
    from pipeline import logging

    logging.configure(configuration.LogSettings(level="ERROR"), ())


@contextmanager
def serving(target: Callable[..., None], settings: Settings, *more: Any) -> Iterator[int]:
    """The port of a server in a process of its own."""
    port = free_port()
    unlimited = settings.limits.model_copy(update=dict.fromkeys(("general", "system", "uploads", "jobs"), 10**6))
    there = settings.gateway.model_copy(update={"port": port})
    settings = settings.model_copy(update={"gateway": there, "limits": unlimited})
    process = multiprocessing.get_context("spawn").Process(target=target, args=(settings, *more), daemon=True)
    process.start()
    asyncio.run(answering(port))
    try:
        yield port
    finally:
        process.terminate()
        process.join(30)


async def answering(port: int) -> None:
    async with asyncio.timeout(120):
        while True:
            try:
                await asyncio.open_connection("127.0.0.1", port)
                return
            except OSError:
                await asyncio.sleep(0.1)


async def per_second(port: int, tokens: Sequence[str], count: int, ask: Callable[[Client], Awaitable[Answer]]) -> float:
    """Answers per second to one client for each token."""

    async def some(client: Client) -> None:
        async with client:
            for _ in range(count // len(tokens)):
                answer = await ask(client)
                assert answer.status < 300, answer

    began = time.perf_counter()
    await asyncio.gather(*(some(Client(port, token)) for token in tokens))
    return count / (time.perf_counter() - began)


def submit(client: Client) -> Awaitable[Answer]:
    return client.ask("POST", "/videos/generate", b'{"prompt": "A beautiful sunset over mountains"}')


async def accepted(port: int, token: str) -> str:
    async with Client(port, token) as client:
        return str(json.loads((await submit(client)).body)["data"]["job_id"])


async def details_of(port: int, token: str, job_id: str) -> bytes:
    async with Client(port, token) as client:
        return (await client.ask("GET", f"/jobs/{job_id}")).body


def details(settings: Settings, target: Callable[..., None], least: float) -> dict[str, Any]:
    """In turns, so that both see the same machine."""
    token = LocalAuthenticator.open(settings).issue("bench")
    with serving(target, settings) as ours:
        job_id = asyncio.run(accepted(ours, token))
        body = asyncio.run(details_of(ours, token, job_id))
        rates: dict[str, list[float]] = {"gateway": [], "bare": []}
        with serving(serve_bare, settings, body) as bare:
            for _ in range(ROUNDS):
                for name, port in (("gateway", ours), ("bare", bare)):
                    ask = per_second(port, [token] * CONNECTIONS, REQUESTS, lambda c: c.ask("GET", f"/jobs/{job_id}"))
                    rates[name].append(asyncio.run(ask))
    ratio = statistics.median(one / other for one, other in zip(rates["gateway"], rates["bare"], strict=True))
    found = {f"{name}_per_s": round(statistics.median(each)) for name, each in rates.items()}
    return found | {"ratio": round(ratio, 3), "enough": ratio >= least}


async def bare_inserts(dsn: str) -> float:
    """Rows as wide as a job's, each committed by itself."""
    row = job().model_dump_json()
    async with asyncpg.create_pool(dsn, min_size=10, max_size=10) as pool:
        await pool.execute("CREATE TABLE bare (id text PRIMARY KEY, request json, created_at timestamptz)")

        async def some() -> None:
            for _ in range(SUBMITS // 10):
                await pool.execute("INSERT INTO bare VALUES ($1, $2, now())", new_id("job"), row)

        began = time.perf_counter()
        await asyncio.gather(*(some() for _ in range(10)))
        return SUBMITS / (time.perf_counter() - began)


def bare_publishes(settings: Settings) -> float:
    broker = open_broker(settings)
    asked = job(model="wan2.1-14b")  # a queue that nothing else here uses
    began = time.perf_counter()
    for _ in range(SUBMITS):
        send(broker, first_message(asked), asked.model)
    rate = SUBMITS / (time.perf_counter() - began)
    broker.close()
    return rate


async def relayed(dsn: str, began: float) -> float:
    """Jobs per second until all are sent."""
    connection = await asyncpg.connect(dsn)
    query = "SELECT count(*) FROM jobs WHERE dispatched_at IS NULL"
    while await connection.fetchval(query):
        await asyncio.sleep(0.05)
    count = await connection.fetchval("SELECT count(*) FROM jobs")
    await connection.close()
    return float(count / (time.perf_counter() - began))


def submits(settings: Settings) -> dict[str, Any]:
    issuer = LocalAuthenticator.open(settings)
    tokens = [issuer.issue(f"user {n}") for n in range(SUBMITTERS)]  # one user's jobs are counted one after the other
    dsn = settings.database_url.replace("+asyncpg", "")
    roomy = settings.gateway.model_copy(update={"max_in_flight_per_worker": 10**6})
    with serving(serve_gateway, settings.model_copy(update={"gateway": roomy})) as port:
        accepted_per_s = asyncio.run(per_second(port, tokens, SUBMITS, submit))
        publisher = open_publisher(settings)
        began = time.perf_counter()
        publisher.publish(Heartbeat(worker_id="bench", host="bench", queues=("render.tiny",), at=now()))
        relayed_per_s = asyncio.run(relayed(dsn, began))
        publisher.close()
    found = {
        "accepted_per_s": round(accepted_per_s),
        "bare_inserts_per_s": round(asyncio.run(bare_inserts(dsn))),
        "relayed_per_s": round(relayed_per_s),
        "bare_publishes_per_s": round(bare_publishes(settings)),
    }
    return found | {"enough": min(accepted_per_s, relayed_per_s) >= MIN_PER_S}


def peak_mib(pid: int | None) -> float:
    """The most memory a process has had so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


async def downloaded(port: int, token: str, path: str) -> float:
    async with Client(port, token) as client:
        return await client.download(path)


async def uploaded(port: int, token: str) -> tuple[str, float]:
    began = time.perf_counter()
    async with Client(port, token) as client:
        file_id = await client.upload(FILE_BYTES)
    return file_id, FILE_BYTES / (time.perf_counter() - began)


def downloads(settings: Settings) -> dict[str, Any]:
    """In turns, so that both see the same machine."""
    token = LocalAuthenticator.open(settings).issue("bench")
    rates: dict[str, list[float]] = {"gateway": [], "bare": []}
    with serving(serve_gateway, settings) as ours:
        (process,) = multiprocessing.active_children()
        before = peak_mib(process.pid)
        file_id, upload_rate = asyncio.run(uploaded(ours, token))
        path = f"/files/{file_id}/download"
        (key,) = (info.key for info in open_store(settings).list("blobs/") if info.size == FILE_BYTES)
        with serving(serve_bare_object, settings, key) as bare:
            for _ in range(DOWNLOADS):
                for name, port in (("gateway", ours), ("bare", bare)):
                    rates[name].append(asyncio.run(downloaded(port, token, path)))
        growth = peak_mib(process.pid) - before
    ratio = statistics.median(one / other for one, other in zip(rates["gateway"], rates["bare"], strict=True))
    found = {f"{name}_mb_per_s": round(statistics.median(each) / 1e6) for name, each in rates.items()}
    enough = ratio >= MIN_DOWNLOAD_RATIO and growth <= MAX_GROWTH_MIB
    measured = {"upload_mb_per_s": round(upload_rate / 1e6), "memory_growth_mib": round(growth)}
    return found | {"ratio": round(ratio, 3)} | measured | {"enough": enough}


def watch(port: int, token: str, job_ids: Sequence[str], results: Queue[Any]) -> None:
    """The process of the clients: opens all streams, says so, and after `SECONDS` how old the events were."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * STREAMS, 2 * STREAMS))

    async def all_streams() -> None:
        took: list[float] = []

        async def one(job_id: str) -> None:
            async with Client(port, token) as client:
                await client.stream(f"/jobs/{job_id}/events", took)

        tasks = [asyncio.create_task(one(job_ids[n % JOBS])) for n in range(STREAMS)]
        await asyncio.sleep(20)  # until all are open
        results.put(sum(not task.done() for task in tasks))
        await asyncio.sleep(SECONDS + 10)
        results.put(took)
        for task in tasks:
            task.cancel()

    asyncio.run(all_streams())


def publish_events(settings: Settings, job_ids: Sequence[str]) -> None:
    publisher = open_publisher(settings)
    began = time.monotonic()
    for n in range(SECONDS * EVENTS_PER_S):
        for position, job_id in enumerate(job_ids):
            at = began + (n + position / len(job_ids)) / EVENTS_PER_S
            time.sleep(max(0.0, at - time.monotonic()))
            publisher.publish_soon(
                Event(
                    id=new_id("event"), job_id=job_id, kind=EventKind.LOG, stage=Stage.RENDER, epoch=1, hop=0, n=n,
                    at=now(), message=str(time.time()),
                )
            )  # fmt: skip
    publisher.close()


def streams(settings: Settings) -> dict[str, Any]:
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * STREAMS, 2 * STREAMS))
    token = LocalAuthenticator.open(settings).issue("bench", expires=timedelta(hours=2))
    context = multiprocessing.get_context("spawn")
    results: Queue[Any] = context.Queue()
    with serving(serve_gateway, settings) as port:
        job_ids = [asyncio.run(accepted(port, token)) for _ in range(JOBS)]
        watching = context.Process(target=watch, args=(port, token, job_ids, results), daemon=True)
        watching.start()
        opened = results.get(timeout=180)
        publishing = threading.Thread(target=publish_events, args=(settings, job_ids))
        publishing.start()
        took = sorted(results.get(timeout=180))
        publishing.join()
        watching.join(30)
    expected = STREAMS * SECONDS * EVENTS_PER_S
    p99 = took[int(len(took) * 0.99)] if took else float("inf")
    return {
        "streams": opened,
        "events_received": len(took),
        "events_expected": expected,
        "delay_p50_s": round(statistics.median(took), 3) if took else None,
        "delay_p99_s": round(p99, 3),
        "delay_max_s": round(took[-1], 3) if took else None,
        "enough": opened == STREAMS and len(took) == expected and p99 < MAX_P99_S,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("parts", nargs="*", default=["details", "submits", "downloads", "streams"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    with Services() as services, tempfile.TemporaryDirectory() as folder:

        def on_servers() -> Settings:
            name = services.postgres.create_database()
            return configuration.load(
                data_dir=Path(folder),
                broker={"url": services.rabbitmq.vhost()},
                database={"url": services.postgres.dsn(name).replace("postgresql://", "postgresql+asyncpg://")},
                store={
                    "kind": "s3", "endpoint": services.s3.endpoint, "secure": False,
                    "bucket": services.s3.create_bucket(), "access_key": services.s3.access_key,
                    "secret_key": services.s3.secret_key,
                },
                redis={"url": services.redis.url},
            )  # fmt: skip

        for service in (services.rabbitmq, services.postgres, services.redis, services.s3):
            service.start()
        if "details" in arguments.parts:
            embedded = configuration.load(data_dir=Path(folder) / "embedded")
            results["details"] = {
                "servers": details(on_servers(), serve_gateway, MIN_RATIO["servers"]),
                "embedded": details(embedded, serve_embedded, MIN_RATIO["embedded"]),
            }
        if "submits" in arguments.parts:
            results["submits"] = submits(on_servers())
        if "downloads" in arguments.parts:
            results["downloads"] = downloads(on_servers())
        if "streams" in arguments.parts:
            results["streams"] = streams(on_servers())
    text = json.dumps(results, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    return 0 if '"enough": false' not in text else 1


if __name__ == "__main__":
    sys.exit(main())
