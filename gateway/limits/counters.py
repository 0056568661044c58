"""Counts requests of the last hour exactly: in Redis for all gateways together, or in this process's memory."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import uuid_utils
from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from gateway.limits.policy import WINDOW
from gateway.outage import SILENCE_S, Outage
from gateway.together import Together

WINDOW_MS = int(WINDOW.total_seconds() * 1000)
CONNECT_S = 2 * SILENCE_S
"""How long Redis may take over a new connection, which asks several times."""
KEPT = 100_000
"""Subjects counted in memory; the one longest silent goes first."""

TAKE = """
local time = redis.call('TIME')
local now, window, taken = time[1] * 1000 + math.floor(time[2] / 1000), ARGV[1], {}
for i, key in ipairs(KEYS) do
  local quota, mark, allowed = tonumber(ARGV[2 * i]), ARGV[2 * i + 1], 0
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now - window)
  local used = redis.call('ZCARD', key)
  if used < quota then
    redis.call('ZADD', key, now, mark)
    redis.call('PEXPIRE', key, window)
    used, allowed = used + 1, 1
  end
  local oldest = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2] or now
  taken[i] = {allowed, math.max(quota - used, 0), oldest + window - now}
end
return taken
"""
"""One script, so that no two gateways count at the same time; by Redis' clock, so that theirs need not agree."""

GIVE_BACK = """
for i, key in ipairs(KEYS) do redis.call('ZREM', key, ARGV[i]) end
"""

Request = tuple[str, int, str]
"""A subject, its quota, and the mark of one more."""

Taken = tuple[bool, int, float]
"""Whether one more was let through, how many are left, and the seconds until the oldest counts no more."""


class Counter(Protocol):
    """Counts by subject."""

    async def take(self, subject: str, quota: int, mark: str) -> Taken:
        """Count one more, called `mark`, unless that would be more than `quota`."""

    async def give_back(self, subject: str, mark: str) -> None:
        """Count `mark` no longer."""

    async def close(self) -> None:
        """Release connections."""


class MemoryCounter:
    """Of this process alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._taken: OrderedDict[str, dict[str, float]] = OrderedDict()

    async def take(self, subject: str, quota: int, mark: str) -> Taken:
        """See `Counter.take`."""
        now, window_s = self._clock(), WINDOW_MS / 1000
        marks = self._taken.setdefault(subject, {})
        self._taken.move_to_end(subject)
        if len(self._taken) > KEPT:
            self._taken.popitem(last=False)
        while marks and (first := next(iter(marks))) and marks[first] <= now - window_s:
            del marks[first]
        allowed = len(marks) < quota
        if allowed:
            marks[mark] = now
        return allowed, max(quota - len(marks), 0), next(iter(marks.values()), now) + window_s - now

    async def give_back(self, subject: str, mark: str) -> None:
        """See `Counter.give_back`."""
        self._taken.get(subject, {}).pop(mark, None)

    async def close(self) -> None:
        """See `Counter.close`."""


class RedisCounter:
    """Of all gateways; while Redis is away each counts by itself, so that users are still limited and never refused
    for Redis' sake.
    """

    def __init__(self, url: str) -> None:
        # One connection, as calls go together; redis-py's own time limit makes a task of each send.
        self._redis = Redis.from_url(url, single_connection_client=True, socket_timeout=None)
        self._take_script = self._redis.register_script(TAKE)
        self._give_back_script = self._redis.register_script(GIVE_BACK)
        self._take = Together(self._take_all)
        self._give_back = Together(self._give_all_back)
        self._memory = MemoryCounter()
        self._outage = Outage("rate limits are counted per gateway", self._ping)

    async def take(self, subject: str, quota: int, mark: str) -> Taken:
        """See `Counter.take`."""
        if self._outage.over:
            try:
                return await self._take((subject, quota, mark))
            except (RedisError, OSError):  # noted once for all that went together
                pass
        return await self._memory.take(subject, quota, mark)

    async def give_back(self, subject: str, mark: str) -> None:
        """See `Counter.give_back`."""
        await self._memory.give_back(subject, mark)
        if self._outage.over:
            with suppress(RedisError, OSError):  # noted, as above
                await self._give_back((subject, mark))

    async def close(self) -> None:
        """See `Counter.close`."""
        await self._outage.close()
        await self._redis.aclose()

    async def _take_all(self, asked: Sequence[Request]) -> list[Taken]:
        keys = [_key(subject) for subject, _, _ in asked]
        arguments = [part for _, quota, mark in asked for part in (quota, mark)]
        found = await self._run(self._take_script, keys, [WINDOW_MS, *arguments])
        return [(bool(allowed), int(left), int(reset_ms) / 1000) for allowed, left, reset_ms in found]

    async def _give_all_back(self, asked: Sequence[tuple[str, str]]) -> list[None]:
        await self._run(self._give_back_script, [_key(subject) for subject, _ in asked], [mark for _, mark in asked])
        return [None] * len(asked)

    async def _run(self, script: AsyncScript, keys: Sequence[str], arguments: Sequence[str | int]) -> Any:  # noqa: ANN401
        """Raises RedisError or OSError; who was waiting meanwhile does not wait for the same failure again."""
        if not self._outage.over:
            raise ConnectionError("Redis was away a moment ago.")
        connected = self._redis.connection is not None and self._redis.connection.is_connected
        try:
            async with asyncio.timeout(SILENCE_S if connected else CONNECT_S):
                return await script(keys=keys, args=arguments)
        except (RedisError, OSError) as error:
            self._outage.begin(error)
            raise

    async def _ping(self) -> None:
        async with asyncio.timeout(CONNECT_S):
            await self._redis.ping()


def open_counter(redis_url: str) -> Counter:
    """In Redis if there is a URL."""
    return RedisCounter(redis_url) if redis_url else MemoryCounter()


def new_mark() -> str:
    """A name for what is counted that nobody else uses."""
    return uuid_utils.uuid4().hex


def _key(subject: str) -> str:
    return f"t2m:limit:{subject}"
