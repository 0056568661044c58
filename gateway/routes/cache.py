"""The cache's part of section "System Monitoring"."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from aiohttp import web

from gateway.access import optional, requires
from gateway.auth.base import Permission
from gateway.cache import AWAY, KEPT_S, SIZE, Cache
from gateway.context import GATEWAY, Gateway
from gateway.database import artifacts, figures
from gateway.envelope import success
from gateway.errors import invalid, unavailable

routes = web.RouteTableDef()

WARMED = 100
LONGEST = 300


@routes.get("/system/cache")
@optional
async def status(request: web.Request) -> web.Response:
    """What the cache is and holds."""
    return success(await _status(request.app[GATEWAY].cache))


@routes.get("/system/cache/metrics")
@optional
async def metrics(request: web.Request) -> web.Response:
    """How this gateway used the cache since it started."""
    return success(_metrics(request.app[GATEWAY].cache))


@routes.get("/system/cache/report")
@optional
async def report(request: web.Request) -> web.Response:
    """Both, and what kinds of entries there are."""
    cache = request.app[GATEWAY].cache
    try:
        kinds: dict[str, int] | None = dict(Counter(key.rpartition(":")[2] for key in await cache.keys()))
    except AWAY:
        kinds = None
    return success({"cache": await _status(cache), "metrics": _metrics(cache), "entries_by_kind": kinds})


@routes.post("/system/cache/invalidate")
@requires(Permission.MANAGE_SYSTEM)
async def invalidate(request: web.Request) -> web.Response:
    """Remove entries by pattern, by user, or all."""
    form = await request.post() if request.content_type == "application/x-www-form-urlencoded" else {}
    given = {name: request.query.get(name) or form.get(name) or None for name in ("pattern", "user_id")}
    wrong = [name for name, value in given.items() if not _usable(value)]
    if wrong:
        raise invalid({name: [f"Must be text of at most {LONGEST} characters"] for name in wrong})
    pattern, user_id = (None if value is None else str(value) for value in given.values())
    try:
        removed = await request.app[GATEWAY].cache.invalidate(pattern, user_id)
    except AWAY:
        raise unavailable("The cache cannot be reached. Try again in a few seconds.") from None
    return success({"invalidated": removed, "pattern": pattern, "user_id": user_id}, "Cache invalidated")


@routes.post("/system/cache/warm")
@requires(Permission.MANAGE_SYSTEM)
async def warm(request: web.Request) -> web.Response:
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
    for (user_id, job_id), files in found.items():
        await gateway.cache.keep_files(user_id, job_id, files)
    return len(found)


async def _status(cache: Cache) -> dict[str, Any]:
    try:
        keys: int | None = len(await cache.keys())
    except AWAY:
        keys = None
    limits = {"ttl_seconds": KEPT_S, "max_entries": SIZE if cache.backend == "memory" else None}
    return {"status": "unavailable" if keys is None else "healthy", "backend": cache.backend, "entries": keys} | limits


def _metrics(cache: Cache) -> dict[str, Any]:
    asked = cache.counts["hits"] + cache.counts["misses"]
    counts = {name: cache.counts[name] for name in ("hits", "misses", "sets", "deletes", "errors")}
    return counts | {"hit_rate": round(counts["hits"] / asked, 6) if asked else None}


def _usable(value: object) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= LONGEST and "\x00" not in value)
