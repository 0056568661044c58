"""Section "System Monitoring", and the page for Prometheus."""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from statistics import fmean
from typing import Annotated, Any, Literal

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import Field
from sqlalchemy.exc import SQLAlchemyError
from typing_extensions import TypedDict

from gateway import housekeeping
from gateway.access import optional, public, requires
from gateway.auth.base import Permission
from gateway.context import GATEWAY, Gateway
from gateway.contract import operation
from gateway.database import deliveries, figures, jobs, workers
from gateway.dispatcher import alive
from gateway.envelope import Success, success
from gateway.errors import unavailable
from gateway.health import PartHealth
from gateway.machine import LoopView, MachineView
from gateway.parameters import WHOLE, Parameters
from gateway.traffic import HOURS, TrafficView
from pipeline.vocabulary import Heartbeat, Status, now

routes = web.RouteTableDef()


class SystemHealth(TypedDict):
    """How every part the gateway needs is."""

    status: Literal["healthy"]
    dependencies: dict[str, PartHealth]


class WorkerView(TypedDict):
    """A living worker by its last heartbeat; `cpu` in percent."""

    worker_id: str
    host: str
    queues: list[str]
    job_ids: list[str]
    cpu: float | None
    memory_bytes: int | None
    stopping: bool


class SystemMetrics(MachineView):
    """Of this gateway's machine, and of the workers that live; `gpu` is null without one."""

    gpu: list[dict[str, Any]] | None
    workers: list[WorkerView]


class QueueView(TypedDict):
    """Unfinished jobs, and the waits of those begun in the last hour."""

    pending_jobs: int
    waiting_jobs: int
    dispatched_jobs: int
    running_jobs: int
    waiting_by_model: dict[str, int]
    oldest_wait_seconds: float | None
    average_wait_seconds: float | None
    workers_by_queue: dict[str, int]


class Span(Parameters):
    """How far back to look."""

    hours: Annotated[int, Field(ge=1, le=HOURS), WHOLE] = 1


class EndedJobs(TypedDict):
    """Jobs that ended; null is the average of nothing."""

    completed: int
    failed: int
    cancelled: int
    success_rate: float | None
    average_wait_seconds: float | None
    average_duration_seconds: float | None
    p95_duration_seconds: float | None


class Performance(TypedDict):
    """What was done in the last hours: jobs of all gateways, requests of this one."""

    hours: int
    jobs: EndedJobs
    requests: TrafficView


class Pool(TypedDict):
    """Connections to the database."""

    used: int
    idle: int
    size: int


class Connections(TypedDict):
    """Open connections of this gateway."""

    clients: int | None
    requests_under_way: int
    database: Pool


class Deduplication(TypedDict):
    """References to stored blobs and what sharing them spares, requests answered by what was there, what is unused."""

    references: int
    unique_blobs: int
    logical_bytes: int
    stored_bytes: int
    saved_bytes: int
    deduplication_ratio: float | None
    unreferenced_blobs: int
    unreferenced_bytes: int
    requests_joined: int
    jobs_reused: int


class Optimized(TypedDict):
    """What was done."""

    database_analyzed: bool
    expired_jobs_removed: int
    expired_files_removed: int
    objects_freed: int
    seconds: float


@routes.get("/system/health")
@public
@operation()
async def health(request: web.Request) -> Success[SystemHealth]:
    """Whether every part the gateway needs answers; 503 names those that do not."""
    answers = await request.app[GATEWAY].health.report()
    down = sorted(name for name, answer in answers.items() if not answer.healthy)
    view = {name: answer.view for name, answer in answers.items()}
    if down:
        raise unavailable({"status": "unhealthy", "unhealthy": down, "dependencies": view})
    return success({"status": "healthy", "dependencies": view}, "System health check completed")


@public
@operation(media=["text/plain"])
async def metrics(request: web.Request) -> web.Response:
    """The exposition; how many jobs wait is counted at the moment, and left out while the database is away."""
    gateway = request.app[GATEWAY]
    gateway.metrics.waiting.clear()
    gateway.metrics.in_flight.clear()
    gateway.metrics.renderers.clear()
    with suppress(SQLAlchemyError, OSError):
        await _count_jobs(gateway)
    return web.Response(body=gateway.metrics.page(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _count_jobs(gateway: Gateway) -> None:
    async with gateway.database.read() as connection:
        waiting, busy = await jobs.count_waiting(connection), await jobs.count_in_flight(connection)
        gateway.metrics.webhook_pending.set(await deliveries.count_pending(connection))
    for model in gateway.catalogue.names:
        gateway.metrics.waiting.labels(model).set(waiting.get(model, 0))
        gateway.metrics.in_flight.labels(model).set(busy.get(model, 0))
        gateway.metrics.renderers.labels(model).set(await gateway.outlook.renderers(model))
    pool = gateway.database.engine.pool
    gateway.metrics.pool_connections.labels("used").set(pool.checkedout())  # type: ignore[attr-defined]
    gateway.metrics.pool_connections.labels("idle").set(pool.checkedin())  # type: ignore[attr-defined]


@routes.get("/system/metrics")
@optional
@operation()
async def measured(request: web.Request) -> Success[SystemMetrics]:
    """Processors and memory of this gateway's machine; processors, memory and GPUs of the workers that live."""
    gateway = request.app[GATEWAY]
    async with gateway.database.read() as connection:
        beats = await workers.beats(connection, now() - alive(gateway.settings))
    gpus = [{"worker": beat.worker_id, "host": beat.host, **beat.gpu} for beat in beats if beat.gpu is not None]
    return success({**await gateway.machine.view(), "gpu": gpus or None, "workers": [_worker(beat) for beat in beats]})


@routes.get("/system/queue")
@optional
@operation()
async def queue(request: web.Request) -> Success[QueueView]:
    """How many jobs wait and run, and how long they waited that began in the last hour."""
    gateway = request.app[GATEWAY]
    async with gateway.database.read() as connection:
        backlog = await figures.backlog(connection)
        waits = await figures.waits(connection, now() - timedelta(hours=1))
        consumers = await workers.live(connection, now() - alive(gateway.settings))
    waiting = sum(backlog.waiting.values())
    oldest = None if backlog.oldest is None else round((now() - backlog.oldest).total_seconds(), 3)
    return success(
        {
            "pending_jobs": backlog.pending,
            "waiting_jobs": waiting,
            "dispatched_jobs": max(backlog.pending - waiting, 0),
            "running_jobs": backlog.running,
            "waiting_by_model": {name: backlog.waiting.get(name, 0) for name in gateway.catalogue.names},
            "oldest_wait_seconds": oldest,
            "average_wait_seconds": _mean(waits),
            "workers_by_queue": dict(consumers),
        }
    )


@routes.get("/system/performance")
@optional
@operation()
async def performance(request: web.Request, query: Span) -> Success[Performance]:
    """What was done in the last hours: jobs of all gateways, requests of this one."""
    gateway = request.app[GATEWAY]
    async with gateway.database.read() as connection:
        ended = await figures.ended(connection, now() - timedelta(hours=query.hours))
    finished = ended.counts[Status.COMPLETED] + ended.counts[Status.FAILED]
    return success(
        {
            "hours": query.hours,
            "jobs": {
                "completed": ended.counts[Status.COMPLETED],
                "failed": ended.counts[Status.FAILED],
                "cancelled": ended.counts[Status.CANCELLED],
                "success_rate": round(ended.counts[Status.COMPLETED] / finished, 6) if finished else None,
                "average_wait_seconds": _mean(ended.waits),
                "average_duration_seconds": _mean(ended.runs),
                "p95_duration_seconds": _p95(ended.runs),
            },
            "requests": gateway.traffic.view(query.hours),
        }
    )


@routes.get("/system/connections")
@optional
@operation()
async def connections(request: web.Request) -> Success[Connections]:
    """Open connections of this gateway: of clients, and to the database."""
    gateway = request.app[GATEWAY]
    pool: Any = gateway.database.engine.pool
    port = request.transport.get_extra_info("sockname")[1] if request.transport else None
    clients = None if port is None else await asyncio.to_thread(gateway.machine.sockets, port)
    return success(
        {
            "clients": clients,
            "requests_under_way": gateway.traffic.under_way,
            "database": {"used": pool.checkedout(), "idle": pool.checkedin(), "size": pool.size()},
        }
    )


@routes.get("/system/async")
@optional
@operation()
async def asynchronous(request: web.Request) -> Success[LoopView]:
    """The event loop of this gateway."""
    return success(request.app[GATEWAY].machine.loop_view())


@routes.get("/system/deduplication")
@optional
@operation()
async def deduplication(request: web.Request) -> Success[Deduplication]:
    """What storing by content, and answering by what is there, spares."""
    shared = await request.app[GATEWAY].shared.renew()
    (references, logical), (stored_blobs, stored), (loose, loose_bytes) = shared.references, shared.blobs, shared.loose
    return success(
        {
            "references": references,
            "unique_blobs": stored_blobs,
            "logical_bytes": logical,
            "stored_bytes": stored,
            "saved_bytes": logical - stored,
            "deduplication_ratio": round(logical / stored, 6) if stored else None,
            "unreferenced_blobs": loose,
            "unreferenced_bytes": loose_bytes,
            "requests_joined": shared.joined,
            "jobs_reused": shared.reused,
        }
    )


@routes.post("/system/optimize")
@requires(Permission.MANAGE_SYSTEM)
@operation()
async def optimize(request: web.Request) -> Success[Optimized]:
    """Let the database measure its tables anew, remove what has expired, and give back memory."""
    gateway = request.app[GATEWAY]
    began = time.perf_counter()
    await gateway.database.analyze()
    removed = await housekeeping.expire(gateway)
    freed = gc.collect()
    seconds = round(time.perf_counter() - began, 4)
    done: Optimized = {
        "database_analyzed": True,
        "expired_jobs_removed": removed.jobs,
        "expired_files_removed": removed.files,
        "objects_freed": freed,
        "seconds": seconds,
    }
    return success(done, "Optimization completed")


def _worker(beat: Heartbeat) -> WorkerView:
    return {
        "worker_id": beat.worker_id,
        "host": beat.host,
        "queues": list(beat.queues),
        "job_ids": list(beat.job_ids),
        "cpu": beat.cpu,
        "memory_bytes": beat.memory_bytes,
        "stopping": beat.stopping,
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(fmean(values), 3) if values else None


def _p95(values: Sequence[float]) -> float | None:
    return round(sorted(values)[math.ceil(0.95 * len(values)) - 1], 3) if values else None
