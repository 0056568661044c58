"""The cache in Redis, shared by two gateways, and through an outage."""

from __future__ import annotations

import pytest

from gateway.auth.base import Role
from tests.services import Redis
from tests.unit.gateway.fixtures import OpenWorld, broker, bus, open_world, settings, store, world
from tests.unit.gateway.support import API, World
from tests.unit.gateway.test_api import error
from tests.unit.gateway.test_system import (
    admin,
    test_nothing_cached_outlives_what_another_process_deleted,
    test_performance_over_the_asked_hours,
    test_the_cache_serves_and_forgets,
    test_the_queue,
)

__all__ = [
    "broker",
    "bus",
    "open_world",
    "settings",
    "store",
    "test_nothing_cached_outlives_what_another_process_deleted",
    "test_performance_over_the_asked_hours",
    "test_the_cache_serves_and_forgets",
    "test_the_queue",
    "world",
]


@pytest.fixture
def servers() -> tuple[str, ...]:
    return ("postgres", "redis")


async def test_gateways_share_the_cache(open_world: OpenWorld) -> None:
    first, second = await open_world(), await open_world()
    job_id = await first.completed()
    await first.data(f"/jobs/{job_id}")
    await second.data(f"/jobs/{job_id}")
    assert (await second.data("/system/cache/metrics"))["hits"] == 1
    assert (await admin(second, "/system/cache/invalidate"))["invalidated"] == 1
    assert (await first.data("/system/cache"))["entries"] == 0


async def test_without_redis_everything_is_read_anew(world: World, redis_server: Redis) -> None:
    job_id = await world.completed()
    await world.data(f"/jobs/{job_id}")
    redis_server.stop()
    try:
        await world.data(f"/jobs/{job_id}")
        away = await world.data("/system/cache")
        assert (away["status"], away["entries"]) == ("unavailable", None)
        assert (await world.data("/system/cache/metrics"))["errors"] >= 1
        root = {"Authorization": f"Bearer {world.token('root', Role.ADMIN)}"}
        for path in ("invalidate", "warm"):
            response = await world.client.post(f"{API}/system/cache/{path}", headers=root)
            assert "cache" in (await error(response, 503, "SERVICE_UNAVAILABLE"))["details"]
    finally:
        redis_server.start()
