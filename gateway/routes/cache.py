"""The cache's part of section "System Monitoring"."""

from __future__ import annotations

import time
from collections import Counter
from typing import Annotated, Literal

from aiohttp import web
from pydantic import Field
from typing_extensions import TypedDict

from gateway.access import optional, requires
from gateway.auth.base import Permission
from gateway.cache import AWAY, KEPT_S, SIZE, Cache
from gateway.context import GATEWAY, Gateway
from gateway.contract import operation
from gateway.database import artifacts, figures
from gateway.envelope import Success, success
from gateway.errors import ApiError, unavailable
from gateway.parameters import Parameters

routes = web.RouteTableDef()

WARMED = 100
Text = Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[^\x00]*$")]


class CacheStatus(TypedDict):
    """What the cache is and holds; null is what is not known while it is away, or has no limit."""

    status: Literal["healthy", "unavailable"]
    backend: str
    entries: int | None
    ttl_seconds: int
    max_entries: int | None


class CacheMetrics(TypedDict):
    """How this gateway used the cache since it started."""

    hits: int
    misses: int
    sets: int
    deletes: int
    errors: int
    hit_rate: float | None


class CacheReport(TypedDict):
    """All about the cache."""

    cache: CacheStatus
    metrics: CacheMetrics
    entries_by_kind: dict[str, int] | None


class Chosen(Parameters):
    """Which entries to remove: those that match all that is given."""

    pattern: Text | None = None
    user_id: Text | None = None


class Invalidated(TypedDict):
    """What was removed."""

    invalidated: int
    pattern: str | None
    user_id: str | None


class Warmed(TypedDict):
    """How many jobs' files are kept now that were not."""

    warmed: int
    seconds: float


@routes.get("/system/cache")
@optional
@operation()
async def status(request: web.Request) -> Success[CacheStatus]:
    """What the cache is and holds."""
    return success(await _status(request.app[GATEWAY].cache))


@routes.get("/system/cache/metrics")
@optional
@operation()
async def metrics(request: web.Request) -> Success[CacheMetrics]:
    """How this gateway used the cache since it started."""
    return success(_metrics(request.app[GATEWAY].cache))


@routes.get("/system/cache/report")
@optional
@operation()
async def report(request: web.Request) -> Success[CacheReport]:
    """Both, and what kinds of entries there are."""
    cache = request.app[GATEWAY].cache
    try:
        kinds: dict[str, int] | None = dict(Counter(key.rpartition(":")[2] for key in await cache.keys()))
    except AWAY:
        kinds = None
    return success({"cache": await _status(cache), "metrics": _metrics(cache), "entries_by_kind": kinds})


@routes.post("/system/cache/invalidate")
@requires(Permission.MANAGE_SYSTEM)
@operation()
async def invalidate(request: web.Request, query: Chosen, form: Chosen) -> Success[Invalidated]:
    """Remove entries by pattern, by user, or all."""
    pattern, user_id = query.pattern or form.pattern, query.user_id or form.user_id
    try:
        removed = await request.app[GATEWAY].cache.invalidate(pattern, user_id)
    except AWAY:
        raise _unreachable() from None
    return success({"invalidated": removed, "pattern": pattern, "user_id": user_id}, "Cache invalidated")


@routes.post("/system/cache/warm")
@requires(Permission.MANAGE_SYSTEM)
@operation()
async def warm(request: web.Request) -> Success[Warmed]:
    """Keep the files of the jobs completed last."""
    began = time.perf_counter()
    count = await _warm(request.app[GATEWAY])
    return success({"warmed": count, "seconds": round(time.perf_counter() - began, 4)}, "Cache warmed")


async def _warm(gateway: Gateway) -> int:
    async with gateway.database.read() as connection:
        found = {
            (user_id, job_id): await artifacts.of_job(connection, job_id)
            for user_id, job_id in await figures.completed(connection, WARMED)
        }
    try:
        return sum([await gateway.cache.add_files(*job, files) for job, files in found.items()])
    except AWAY:
        raise _unreachable() from None


def _unreachable() -> ApiError:
    return unavailable("The cache cannot be reached. Try again in a few seconds.")


async def _status(cache: Cache) -> CacheStatus:
    try:
        keys: int | None = len(await cache.keys())
    except AWAY:
        keys = None
    return {
        "status": "unavailable" if keys is None else "healthy",
        "backend": cache.backend,
        "entries": keys,
        "ttl_seconds": KEPT_S,
        "max_entries": SIZE if cache.backend == "memory" else None,
    }


def _metrics(cache: Cache) -> CacheMetrics:
    counts = cache.counts
    asked = counts["hits"] + counts["misses"]
    return {
        "hits": counts["hits"],
        "misses": counts["misses"],
        "sets": counts["sets"],
        "deletes": counts["deletes"],
        "errors": counts["errors"],
        "hit_rate": round(counts["hits"] / asked, 6) if asked else None,
    }
