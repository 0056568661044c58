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
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy.exc import SQLAlchemyError

from gateway import housekeeping
from gateway.access import optional, public, requires
from gateway.auth.base import Permission
from gateway.context import GATEWAY, Gateway
from gateway.database import deliveries, figures, jobs, workers
from gateway.dispatcher import alive
from gateway.envelope import success
from gateway.errors import unavailable
from gateway.query import Query
from gateway.traffic import HOURS
from pipeline.vocabulary import Status, now

routes = web.RouteTableDef()

WORKER_FIELDS = ("worker_id", "host", "queues", "job_ids", "cpu", "memory_bytes", "stopping")


@routes.get("/system/health")
@public
async def health(request: web.Request) -> web.Response:
    """Whether every part the gateway needs answers; 503 names those that do not."""
    answers = await request.app[GATEWAY].health.report()
    down = sorted(name for name, answer in answers.items() if not answer.healthy)
    view = {name: answer.view for name, answer in answers.items()}
    if down:
        raise unavailable({"status": "unhealthy", "unhealthy": down, "dependencies": view})
    return success({"status": "healthy", "dependencies": view}, "System health check completed")


@public
async def metrics(request: web.Request) -> web.Response:
    """The exposition; how many jobs wait is counted at the moment, and left out while the database is away."""
    gateway = request.app[GATEWAY]
    gateway.metrics.waiting.clear()
    gateway.metrics.in_flight.clear()
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
    pool = gateway.database.engine.pool
    gateway.metrics.pool_connections.labels("used").set(pool.checkedout())  # type: ignore[attr-defined]
    gateway.metrics.pool_connections.labels("idle").set(pool.checkedin())  # type: ignore[attr-defined]


@routes.get("/system/metrics")
@optional
async def measured(request: web.Request) -> web.Response:
    """Processors and memory of this gateway's machine; processors, memory and GPUs of the workers that live."""
    gateway = request.app[GATEWAY]
    async with gateway.database.read() as connection:
        beats = await workers.beats(connection, now() - alive(gateway.settings))
    gpus = [{"worker": beat.worker_id, "host": beat.host, **beat.gpu} for beat in beats if beat.gpu is not None]
    told = [{name: getattr(beat, name) for name in WORKER_FIELDS} for beat in beats]
    return success(await gateway.machine.view() | {"gpu": gpus or None, "workers": told})


@routes.get("/system/queue")
@optional
async def queue(request: web.Request) -> web.Response:
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
async def performance(request: web.Request) -> web.Response:
    """What was done in the last hours: jobs of all gateways, requests of this one."""
    gateway = request.app[GATEWAY]
    with Query(request) as query:
        hours = query.integer("hours", 1, minimum=1, maximum=HOURS)
    async with gateway.database.read() as connection:
        ended = await figures.ended(connection, now() - timedelta(hours=hours))
    finished = ended.counts[Status.COMPLETED] + ended.counts[Status.FAILED]
    return success(
        {
            "hours": hours,
            "jobs": {
                **{status: ended.counts[status] for status in Status if status.final},
                "success_rate": round(ended.counts[Status.COMPLETED] / finished, 6) if finished else None,
                "average_wait_seconds": _mean(ended.waits),
                "average_duration_seconds": _mean(ended.runs),
                "p95_duration_seconds": _p95(ended.runs),
            },
            "requests": gateway.traffic.view(hours),
        }
    )


@routes.get("/system/connections")
@optional
async def connections(request: web.Request) -> web.Response:
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
async def asynchronous(request: web.Request) -> web.Response:
    """The event loop of this gateway."""
    return success(request.app[GATEWAY].machine.loop_view())


@routes.post("/system/optimize")
@requires(Permission.MANAGE_SYSTEM)
async def optimize(request: web.Request) -> web.Response:
    """Let the database measure its tables anew, remove what has expired, and give back memory."""
    gateway = request.app[GATEWAY]
    began = time.perf_counter()
    await gateway.database.analyze()
    removed = await housekeeping.expire(gateway)
    freed = gc.collect()
    seconds = round(time.perf_counter() - began, 4)
    done = {"database_analyzed": True, "expired_jobs_removed": removed, "objects_freed": freed, "seconds": seconds}
    return success(done, "Optimization completed")


def _mean(values: Sequence[float]) -> float | None:
    return round(fmean(values), 3) if values else None


def _p95(values: Sequence[float]) -> float | None:
    return round(sorted(values)[math.ceil(0.95 * len(values)) - 1], 3) if values else None
