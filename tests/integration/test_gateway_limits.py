"""The limits on the real servers: exact over two gateways, through an outage of Redis."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
import redis.asyncio

from config.settings import LimitSettings, Settings
from gateway.limits.counters import RedisCounter, new_mark
from tests.services import Redis
from tests.unit.gateway.fixtures import OpenWorld, broker, bus, open_world, settings, store
from tests.unit.gateway.support import API, World, until
from tests.unit.gateway.test_limits import BODY

__all__ = ["broker", "bus", "open_world", "settings", "store"]


@pytest.fixture
def servers() -> tuple[str, ...]:
    return ("postgres", "redis")


@pytest.fixture
async def worlds(open_world: OpenWorld, settings: Settings) -> list[World]:
    few = settings.model_copy(update={"limits": LimitSettings(general=30, jobs=5)})
    return [await open_world(few) for _ in range(2)]


async def statuses(worlds: list[World], method: str, path: str, count: int) -> list[int]:
    async def ask(number: int) -> int:
        world = worlds[number % len(worlds)]
        body = BODY if method == "POST" else None
        async with world.client.request(method, API + path, json=body, headers=world.headers()) as response:
            return response.status

    return sorted(await asyncio.gather(*(ask(number) for number in range(count))))


async def test_two_gateways_and_fifty_clients_never_exceed_the_limits(worlds: list[World], redis_server: Redis) -> None:
    assert await statuses(worlds, "GET", "/jobs", 50) == [200] * 30 + [429] * 20
    redis_server.flush()
    assert await statuses(worlds, "POST", "/videos/generate", 25) == [202] * 5 + [429] * 20


async def test_without_redis_each_gateway_counts_by_itself_and_jobs_stay_exact(
    worlds: list[World], redis_server: Redis
) -> None:
    assert await statuses(worlds, "POST", "/videos/generate", 4) == [202] * 4
    redis_server.stop()
    try:
        assert await statuses(worlds, "POST", "/videos/generate", 10) == [202] + [429] * 9
        assert await statuses(worlds[:1], "GET", "/jobs", 30) == [200] * 25 + [429] * 5
    finally:
        redis_server.start()


async def test_a_redis_that_answers_late_still_counts(settings: Settings) -> None:
    url = settings.redis.url.get_secret_value()
    counter = RedisCounter(url)
    assert (await counter.take("user", 1, new_mark()))[0]
    async with redis.asyncio.Redis.from_url(url) as server:
        await server.client_pause(1000)
    allowed, _, _ = await counter.take("user", 1, new_mark())
    await counter.close()
    assert not allowed


async def test_a_redis_that_comes_back_counts_for_all_again(settings: Settings, redis_server: Redis) -> None:
    url = settings.redis.url.get_secret_value()
    counter = RedisCounter(url)
    await counter.take("user", 1, new_mark())
    redis_server.stop()
    try:
        assert (await counter.take("user", 1, new_mark()))[0], "counted here alone"
    finally:
        redis_server.start()
    async with redis.asyncio.Redis.from_url(url) as server:

        async def counted_there() -> bool | None:
            await counter.take(subject := new_mark(), 1, new_mark())
            return await server.zcard(f"t2m:limit:{subject}") == 1 or None

        await until(counted_there)
    await counter.close()


async def test_what_is_given_back_together_counts_no_longer(settings: Settings) -> None:
    counter = RedisCounter(settings.redis.url.get_secret_value())
    marks = {user: [new_mark() for _ in range(3)] for user in ("ada", "bob")}
    for user, its in marks.items():
        for mark in its:
            await counter.take(user, 3, mark)
    await asyncio.gather(*(counter.give_back(user, mark) for user, its in marks.items() for mark in its[1:]))
    left = [(await counter.take(user, 3, new_mark()))[1] for user in marks]
    await counter.close()
    assert left == [1, 1]


async def test_users_who_are_counted_together_keep_to_their_own_quotas(settings: Settings) -> None:
    counter = RedisCounter(settings.redis.url.get_secret_value())
    asked = [(f"user {n % 3}", 2 + n % 3) for n in range(30)]
    taken = await asyncio.gather(*(counter.take(user, quota, new_mark()) for user, quota in asked))
    await counter.close()
    let_through = Counter(user for (user, _), (allowed, _, _) in zip(asked, taken, strict=True) if allowed)
    assert let_through == {"user 0": 2, "user 1": 3, "user 2": 4}
    assert all(left < quota for (_, quota), (_, left, _) in zip(asked, taken, strict=True))
