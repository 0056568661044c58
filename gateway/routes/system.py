"""Section "System Monitoring", and the page for Prometheus."""

from __future__ import annotations

from contextlib import suppress

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy.exc import SQLAlchemyError

from gateway.access import public
from gateway.context import GATEWAY, Gateway
from gateway.database import deliveries, jobs
from gateway.envelope import success
from gateway.errors import unavailable

routes = web.RouteTableDef()


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
