"""Keeps requests from waiting for Redis while it is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context

import structlog

log = structlog.get_logger(__name__)

PAUSE_S = 2.0
"""Between two attempts to reach a Redis that is away."""

SILENCE_S = 2.0
"""A server that is silent for so long is away. Long enough that a gateway which was busy itself, and so read an answer
late, does not take that for its server's silence.
"""


class Outage:
    """From a failure of Redis on it is over only when Redis answers a ping, for which no request waits.

    Args:
        consequence: what the log says it means.
        ping: a round trip, with a time limit of its own.
    """

    def __init__(self, consequence: str, ping: Callable[[], Awaitable[object]]) -> None:
        self._consequence = consequence
        self._ping = ping
        self._waiting: asyncio.Task[None] | None = None

    @property
    def over(self) -> bool:
        """Whether Redis may be asked."""
        return self._waiting is None

    def begin(self, error: Exception) -> None:
        """Redis failed."""
        if self._waiting is None:
            log.warning(f"Redis is away: {self._consequence}", error=repr(error))
            self._waiting = asyncio.get_running_loop().create_task(self._wait(), context=Context())

    async def close(self) -> None:
        """Wait for Redis no longer."""
        if self._waiting is not None:
            self._waiting.cancel()
            await asyncio.wait([self._waiting])

    async def _wait(self) -> None:
        while True:
            await asyncio.sleep(PAUSE_S)
            try:
                await self._ping()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
                log.debug("Redis is still away", error=repr(error))
            else:
                break
        log.info("Redis answers again")
        self._waiting = None
