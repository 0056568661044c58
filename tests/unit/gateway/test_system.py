"""The numbers under /system: each moves when the world does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import ClientResponse
from sqlalchemy import update

from config.settings import Settings
from gateway.auth.base import Role
from gateway.database.jobs import send_again
from gateway.database.tables import files, jobs
from gateway.traffic import Traffic
from pipeline.vocabulary import EventKind, Stage, now
from tests.unit.gateway.fixtures import OpenWorld
from tests.unit.gateway.support import API, World, until
from tests.unit.gateway.test_api import error
from tests.unit.gateway.uploading import upload

GPU = {"name": "H100", "memory_used_bytes": 1, "memory_total_bytes": 2, "utilisation": 0.5}
ADMIN_POSTS = ("/system/cache/invalidate", "/system/cache/warm", "/system/optimize")


async def admin(world: World, path: str, **more: Any) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {world.token('root', Role.ADMIN)}"}
    response = await world.client.post(API + path, headers=headers, **more)
    body = await response.json()
    assert response.status == 200, body
    return dict(body["data"])


async def reached(world: World, path: str, right: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    async def there() -> dict[str, Any] | None:
        data = await world.data(path)
        return data if right(data) else None

    return await until(there)


async def test_metrics_measure_this_machine(world: World) -> None:
    before = await world.data("/system/metrics")
    assert before["gpu"] is None and before["workers"] == [], "no source, no number"
    assert 0 < before["memory_usage"] < 100 and 0 <= before["cpu_usage"] <= 100
    ballast = bytearray(64 << 20)
    async with asyncio.timeout(60):
        while (busy := (await world.data("/system/metrics"))["process"])["cpu_usage"] == 0:
            sum(range(1_000_000))
    assert busy["memory_bytes"] > before["process"]["memory_bytes"] + len(ballast) // 2
    assert busy["uptime_seconds"] > before["process"]["uptime_seconds"]


async def test_gpus_are_those_of_workers_that_live(world: World) -> None:
    await world.work(world.worker.beat, "gpu-1", gpu=GPU, cpu=0.25, memory_bytes=5, job_ids=("job_1",))
    data = await reached(world, "/system/metrics", lambda data: bool(data["gpu"]))
    assert data["gpu"] == [{"worker": "gpu-1", "host": "gpu"} | GPU]
    assert (data["workers"][0]["cpu"], data["workers"][0]["job_ids"]) == (0.25, ["job_1"])


async def test_the_queue(world: World) -> None:
    empty = await world.data("/system/queue")
    assert (empty["pending_jobs"], empty["running_jobs"], empty["oldest_wait_seconds"]) == (0, 0, None)
    job_id = await world.generate()
    pending = await world.data("/system/queue")
    assert pending["pending_jobs"] == 1 == pending["waiting_jobs"] + pending["dispatched_jobs"]
    assert pending["waiting_by_model"]["tiny"] == pending["waiting_jobs"]
    assert pending["oldest_wait_seconds"] >= 0
    sent = await reached(world, "/system/queue", lambda data: data["dispatched_jobs"] == 1)
    assert (sent["pending_jobs"], sent["waiting_jobs"], sent["workers_by_queue"]) == (1, 0, {})
    await world.work(world.worker.beat)
    await reached(world, "/system/queue", lambda data: data["workers_by_queue"] == {"render.tiny": 1})
    await world.work(world.worker.tell, job_id, EventKind.STARTED, Stage.RENDER)
    running = await reached(world, "/system/queue", lambda data: data["running_jobs"] == 1)
    assert running["pending_jobs"] == 0
    assert running["average_wait_seconds"] >= 0
    async with world.gateway.database.write() as connection:
        await send_again(connection, [job_id])
    lost = await world.data("/system/queue")
    assert (lost["pending_jobs"], lost["running_jobs"], lost["waiting_jobs"] + lost["dispatched_jobs"]) == (1, 0, 1)
    assert lost["oldest_wait_seconds"] >= 0
    await world.work(world.worker.complete, job_id)
    await reached(world, "/system/queue", lambda data: data["pending_jobs"] == data["running_jobs"] == 0)


async def test_performance_over_the_asked_hours(world: World) -> None:
    before = await world.data("/system/performance")
    assert before["hours"] == 1 and before["jobs"]["completed"] == 0
    assert before["jobs"]["success_rate"] is None and before["jobs"]["average_duration_seconds"] is None
    await world.completed()
    failed = await world.generate()
    await world.work(world.worker.fail, failed)
    await world.reached(failed, "failed")
    after = await world.data("/system/performance?hours=24")
    assert (after["jobs"]["completed"], after["jobs"]["failed"], after["jobs"]["success_rate"]) == (1, 1, 0.5)
    assert after["jobs"]["average_duration_seconds"] >= 0
    assert after["requests"]["total"] > before["requests"]["total"]
    told = await error(await world.get("/system/performance?hours=0"), 400, "VALIDATION_ERROR")
    assert told["details"] == {"hours": ["Hours must be between 1 and 168"]}


def test_requests_of_the_asked_hours_alone() -> None:
    at = [0.0]
    traffic = Traffic(lambda: at[0])
    traffic.add(200, 0.004)
    at[0] = 2 * 3600.0
    traffic.add(500, 0.03)
    assert (traffic.view(1)["total"], traffic.view(1)["error_rate"], traffic.view(1)["p50_ms_at_most"]) == (1, 1.0, 50)
    assert (traffic.view(3)["total"], traffic.view(3)["errors"], traffic.view(3)["p50_ms_at_most"]) == (2, 1, 5)
    at[0] = 400 * 3600.0
    assert traffic.view(168)["average_ms"] is None


async def test_connections_and_the_event_loop(world: World) -> None:
    before = await world.data("/system/connections")
    assert before["clients"] >= 1 and before["requests_under_way"] == 1
    job_id = await world.generate()
    async with world.client.get(f"{API}/jobs/{job_id}/events", headers=world.headers()):
        during = await world.data("/system/connections")
        tasks = (await world.data("/system/async"))["tasks"]
    assert during["clients"] == before["clients"] + 1
    assert during["requests_under_way"] == 2
    async with world.gateway.database.write():
        held = await world.data("/system/connections")
    assert held["database"]["used"] >= 1
    sleeping = [asyncio.create_task(asyncio.sleep(60)) for _ in range(50)]
    assert (await world.data("/system/async"))["tasks"] >= tasks + 40
    for task in sleeping:
        task.cancel()
    loop = await reached(world, "/system/async", lambda data: data["loop_lag_max_ms"] is not None)
    assert loop["loop_lag_max_ms"] >= loop["loop_lag_ms"]


async def test_the_cache_serves_and_forgets(world: World) -> None:
    job_id = await world.completed()
    assert (await world.data("/system/cache/metrics"))["hit_rate"] is None
    for _ in range(2):
        await world.data(f"/jobs/{job_id}")
    metrics = await world.data("/system/cache/metrics")
    assert (metrics["hits"], metrics["misses"], metrics["hit_rate"]) == (1, 1, 0.5)
    assert (await world.data("/system/cache"))["entries"] == 1
    assert (await world.data("/system/cache/report"))["entries_by_kind"] == {"files": 1}
    await error(await world.get(f"/jobs/{job_id}", user="bob"), 404, "RESOURCE_NOT_FOUND")
    assert (await admin(world, "/system/cache/invalidate", data={"pattern": "user:bob:*"}))["invalidated"] == 0
    assert (await admin(world, "/system/cache/invalidate", params={"user_id": "ada"}))["invalidated"] == 1
    assert (await world.data("/system/cache"))["entries"] == 0
    assert [(await admin(world, "/system/cache/warm"))["warmed"] for _ in range(2)] == [1, 0], "what was not kept"
    assert (await world.data("/system/cache"))["entries"] == 1
    assert (await admin(world, "/system/cache/invalidate"))["invalidated"] == 1


async def test_what_is_to_be_forgotten_must_be_said_so_that_it_is_understood(world: World) -> None:
    job_id = await world.completed()
    await world.data(f"/jobs/{job_id}")
    root = {"Authorization": f"Bearer {world.token('root', Role.ADMIN)}"}
    path = f"{API}/system/cache/invalidate"
    await error(await world.client.post(path, headers=root, params={"user_id": ""}), 400, "VALIDATION_ERROR")
    await error(await world.client.post(path, headers=root, json={"pattern": "user:bob:*"}), 415, "VALIDATION_ERROR")
    assert (await world.data("/system/cache"))["entries"] == 1


FORM = "application/x-www-form-urlencoded"
ILLEGIBLE = [(FORM, b"pattern=\xff"), (f"{FORM}; charset=foo", b"pattern=a"), (f"{FORM}; charset=base64", b"pattern=a")]


@pytest.mark.parametrize(("kind", "body"), ILLEGIBLE, ids=["utf-8", "unknown", "no charset"])
async def test_a_form_that_cannot_be_read_is_refused(world: World, kind: str, body: bytes) -> None:
    headers = {"Authorization": f"Bearer {world.token('root', Role.ADMIN)}", "Content-Type": kind}
    response = await world.client.post(f"{API}/system/cache/invalidate", headers=headers, data=body)
    assert set((await error(response, 400, "VALIDATION_ERROR"))["details"]) == {"body"}


async def test_nothing_cached_outlives_what_another_process_deleted(open_world: OpenWorld) -> None:
    first, second = await open_world(), await open_world()
    job_id = await first.completed()
    await first.data(f"/jobs/{job_id}")
    assert (await second.get(f"/jobs/{job_id}", method="DELETE")).status == 200
    for path in (f"/jobs/{job_id}", f"/videos/{job_id}/download", f"/videos/{job_id}/thumbnail"):
        await error(await first.get(path), 404, "RESOURCE_NOT_FOUND")


async def test_optimizing_removes_what_has_expired(world: World) -> None:
    job_id = await world.completed()
    for data in (b"one", b"two"):
        await upload(world, data)
    async with world.gateway.database.write() as connection:
        for table in (jobs, files):
            await connection.execute(update(table).values(expires_at=now() - timedelta(seconds=1)))
    done = await admin(world, "/system/optimize")
    assert done["database_analyzed"] is True
    assert (done["expired_jobs_removed"], done["expired_files_removed"]) == (1, 2)
    await error(await world.get(f"/jobs/{job_id}"), 404, "RESOURCE_NOT_FOUND")


@pytest.mark.parametrize("path", ADMIN_POSTS)
async def test_changing_the_system_needs_an_admin(world: World, path: str) -> None:
    await error(await world.client.post(API + path), 401, "AUTH_REQUIRED")
    await error(await world.get(path, method="POST"), 403, "PERMISSION_DENIED")


PATHS = ("metrics", "queue", "cache", "cache/metrics", "cache/report", "performance", "connections", "async")


async def test_anybody_may_look(world: World) -> None:
    for path in PATHS:
        response = await world.client.get(f"{API}/system/{path}")
        assert response.status == 200, path
        assert response.headers["RateLimit"].startswith('"system";')


async def test_pages_of_configured_origins_may_call(open_world: OpenWorld, settings: Settings) -> None:
    origin = "https://app.example.com"
    gateway = settings.gateway.model_copy(update={"cors_origins": (origin,)})
    world = await open_world(settings.model_copy(update={"gateway": gateway}))

    def ask(of: str, method: str) -> Awaitable[ClientResponse]:
        headers = {"Origin": of, "Access-Control-Request-Method": "POST"}
        return world.client.request(method, f"{API}/videos/generate", headers=headers)

    allowed = await ask(origin, "OPTIONS")
    assert (allowed.status, allowed.headers["Access-Control-Allow-Origin"]) == (204, origin)
    assert "Authorization" in allowed.headers["Access-Control-Allow-Headers"]
    answer = await ask(origin, "POST")
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (401, origin)
    exposed = set(answer.headers["Access-Control-Expose-Headers"].split(", "))
    assert {"RateLimit", "Content-Location", "Idempotent-Replayed"} <= exposed
    for method in ("OPTIONS", "POST"):
        assert "Access-Control-Allow-Origin" not in (await ask("https://evil.example.com", method)).headers
