"""The gateway as a process with its roles: health, restarts, signals."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import pytest
import requests
from sqlalchemy import make_url

from config.catalogue import Catalogue
from config.settings import Settings
from gateway import health
from gateway.auth.base import Role
from gateway.auth.local import LocalAuthenticator
from gateway.errors import AddressError, DatabaseError
from gateway.metrics import Metrics
from gateway.roles import Roles
from gateway.serve import run_gateway
from pipeline.errors import StoreError
from pipeline.store.s3 import S3Store
from tests.unit.gateway.fixtures import OpenWorld
from tests.unit.gateway.support import API, World, until
from tests.unit.gateway.test_api import error


async def test_health_says_which_part_is_down(world: World) -> None:
    async def away() -> None:
        raise StoreError("The store is away.")

    parts = health.checks(world.gateway.database, world.store, "memory://") | {"store": away}
    world.gateway.health = health.Health(parts)
    told = await error(await world.client.get(f"{API}/system/health"), 503, "SERVICE_UNAVAILABLE")
    assert told["details"]["unhealthy"] == ["store"]
    states = {name: part["status"] for name, part in told["details"]["dependencies"].items()}
    assert states == {"database": "healthy", "store": "unhealthy"}


@pytest.mark.parametrize("part", ["database", "store"])
async def test_health_notices_what_was_lost_under_a_running_gateway(
    world: World, settings: Settings, part: str
) -> None:
    assert (await world.client.get(f"{API}/system/health")).status == 200
    if part == "store":
        shutil.rmtree(settings.data_dir / "store")
    else:
        with Path(make_url(settings.database_url).database or "").open("r+b") as file:
            file.write(bytes(4096))
    await asyncio.sleep(health.FRESH_S)  # however many ask, the parts are asked once in that time
    told = await error(await world.client.get(f"{API}/system/health"), 503, "SERVICE_UNAVAILABLE")
    assert told["details"]["unhealthy"] == [part]


async def test_a_silent_store_keeps_one_thread_busy_however_often_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LIMIT_S", 0.1)
    monkeypatch.setattr("pipeline.store.s3.PAUSES_S", (0.01,))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        check = health.alone(S3Store(endpoint, "key", "secret", "bucket", secure=False, region="us-east-1").ping)
        assert [(await health.ask("store", check)).healthy for _ in range(3)] == [False] * 3
        asked, _ = silent.accept()
        with pytest.raises(BlockingIOError):
            silent.accept()
        asked.close()


async def test_a_part_that_hangs_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LIMIT_S", 0.05)
    answers = await health.Health({"slow": asyncio.Event().wait, "fast": lambda: asyncio.sleep(0)}).report()
    assert {name: answer.healthy for name, answer in answers.items()} == {"slow": False, "fast": True}


async def test_many_questions_at_once_ask_the_parts_once() -> None:
    asked = 0

    async def count() -> None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.01)

    checked = health.Health({"part": count})
    await asyncio.gather(*(checked.report() for _ in range(50)))
    assert asked == 1


async def test_a_lost_store_is_503_and_no_job_is_promised(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "store"
    folder.rename(tmp_path / "elsewhere")
    folder.write_text("no folder")
    response = await world.client.post(f"{API}/videos/generate", json={"prompt": "p"}, headers=world.headers())
    await error(response, 503, "SERVICE_UNAVAILABLE")
    assert response.headers["Retry-After"]


async def test_a_role_that_fails_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.roles.BACKOFF_FIRST_S", 0.001)
    runs, stopped = 0, asyncio.Event()

    async def role() -> None:
        nonlocal runs
        runs += 1
        if runs < 4:
            raise RuntimeError("broken")
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    metrics = Metrics()
    roles = Roles({"role": role}, metrics)
    roles.start()

    async def back() -> bool | None:
        return runs == 4 or None

    await until(back)
    await roles.stop()
    assert stopped.is_set()
    assert metrics.registry.get_sample_value("t2m_role_crashes_total", {"role": "role"}) == 3


async def test_a_role_that_fails_while_it_stops_is_not_started_again() -> None:
    runs = 0

    async def role() -> None:
        nonlocal runs
        runs += 1
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("the server went first")

    roles = Roles({"role": role}, Metrics())
    roles.start()
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await roles.stop()
    assert runs == 1


async def test_an_embedded_gateway_takes_up_what_the_last_one_left(open_world: OpenWorld) -> None:
    first = await open_world()
    job_id = await first.generate()

    async def sent(times: int) -> bool | None:
        page = await (await first.client.get("/metrics")).text()
        return f't2m_dispatcher_sends_total{{model="tiny",outcome="confirmed"}} {times}.0' in page or None

    await until(lambda: sent(1))
    await first.client.close()
    second = await open_world()
    await second.work(second.worker.complete, job_id)
    assert (await second.reached(job_id, "completed"))["progress"] == 100


async def test_a_gateway_without_the_api_role_answers_health_and_metrics_only(
    open_world: OpenWorld, settings: Settings
) -> None:
    roles = settings.gateway.model_copy(update={"roles": ("dispatcher", "projector")})
    world = await open_world(settings.model_copy(update={"gateway": roles}))
    assert (await world.client.get(f"{API}/system/health")).status == 200
    assert (await world.client.get("/metrics")).status == 200
    assert (await world.get("/jobs/x")).status == 404
    assert (await world.client.post(f"{API}/videos/generate", headers=world.headers())).status == 404


SERVE = """
import sys
from pathlib import Path
from config.catalogue import Catalogue
from config.settings import load
from gateway.app import create_app
from gateway.serve import run
from pipeline.broker import open_broker
from pipeline.bus.factory import open_subscriber
from pipeline.bus.memory import MemoryBus
from pipeline.store.factory import open_store

settings, bus = load(data_dir=Path(sys.argv[1]), gateway={"port": 0}, limits={"jobs": 20}), MemoryBus()
app = create_app(settings, store=open_store(settings), broker=open_broker(settings), catalogue=Catalogue.load(),
                 subscribe=lambda: open_subscriber(settings, memory=bus))
run(app, settings, lambda url: print(url, flush=True))
print("stopped", flush=True)
"""


class Process:
    """An embedded gateway without workers, as a process of its own."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(data_dir)], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self.process.stdout is not None
        self.url = next(line.strip() for line in self.process.stdout if line.startswith("http://"))

    @property
    def headers(self) -> dict[str, str]:
        settings = Settings(data_dir=self.data_dir)
        return {"Authorization": f"Bearer {LocalAuthenticator.open(settings).issue('ada', Role.USER)}"}

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)


def test_sigterm_lets_answers_finish_and_ends_in_order(tmp_path: Path) -> None:
    gateway = Process(tmp_path)
    disposition = 'Content-Disposition: form-data; name="file"; filename="a.txt"'
    first = f"--x\r\n{disposition}\r\n\r\n".encode() + b"text " * 20_000
    rest = b"and the end\r\n--x--\r\n"
    upload = HTTPConnection(gateway.url.removeprefix("http://"), timeout=60)
    upload.putrequest("POST", f"{API}/files/upload")
    kind = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": str(len(first + rest))}
    for name, value in (gateway.headers | kind).items():
        upload.putheader(name, value)
    upload.endheaders(first)
    while not list((tmp_path / "store" / "incoming").glob("*")):
        time.sleep(0.02)
    os.kill(gateway.process.pid, signal.SIGTERM)
    time.sleep(0.5)
    upload.send(rest)
    assert upload.getresponse().status == 201
    assert gateway.process.stdout is not None
    assert "stopped" in gateway.process.stdout.read()
    assert gateway.process.wait(60) == 0


def ask(gateway: Process, key: str) -> str:
    """The id of the job that was accepted under a key."""
    headers = gateway.headers | {"Idempotency-Key": key}
    answer = requests.post(f"{gateway.url}{API}/videos/generate", json={"prompt": key}, headers=headers, timeout=20)
    return str(answer.json()["data"]["job_id"])


def test_jobs_accepted_before_a_kill_are_there_once_after_it(tmp_path: Path) -> None:
    gateway = Process(tmp_path)
    names = [f"key-{n}" for n in range(20)]
    accepted: dict[str, str] = {}
    some = threading.Event()

    def client(mine: list[str]) -> None:
        for key in mine:
            try:
                accepted[key] = ask(gateway, key)
            except requests.RequestException:
                return  # killed: nobody knows what became of the request
            if len(accepted) >= 6:
                some.set()

    with ThreadPoolExecutor(4) as clients:
        for n in range(4):
            clients.submit(client, names[n::4])
        assert some.wait(60)
        gateway.kill()
    again = Process(tmp_path)
    try:
        for job_id in accepted.values():
            answer = requests.get(f"{again.url}{API}/jobs/{job_id}", headers=again.headers, timeout=20)
            assert answer.json()["data"]["status"] == "processing"
        found = {key: ask(again, key) for key in names}
        assert accepted.items() <= found.items()
        listed = requests.get(f"{again.url}{API}/jobs", headers=again.headers, timeout=20)
        assert listed.json()["data"]["pagination"]["total_items"] == len(set(found.values())) == len(names)
    finally:
        again.kill()


def test_what_prevents_a_start_is_said_in_one_line(t2m_settings: Callable[..., Settings]) -> None:
    catalogue = Catalogue.load()
    settings = t2m_settings(
        broker={"url": "amqp://127.0.0.1:1/"}, database={"url": "postgresql+asyncpg://t2m@127.0.0.1:1/none"}
    )
    with pytest.raises(DatabaseError, match=r"database\.url"):
        run_gateway(settings, catalogue)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = t2m_settings(broker={"url": "amqp://127.0.0.1:1/"}, gateway={"port": port, "roles": ["api"]})
        with pytest.raises(AddressError, match=str(port)):
            run_gateway(settings, catalogue)
