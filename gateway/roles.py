"""Background work that must not die unnoticed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog
from sqlalchemy.exc import DBAPIError

from config.errors import T2MError
from gateway.metrics import Metrics

log = structlog.get_logger(__name__)

BACKOFF_FIRST_S, BACKOFF_LONGEST_S = 0.5, 15.0
STEADY_S = 60.0
"""A role that ran this long starts again at the first backoff."""

EXPECTED = (T2MError, OSError, DBAPIError)
"""A part is away; a stack trace would say no more."""

Role = Callable[[], Awaitable[None]]


class Roles:
    """Runs roles as tasks; one that fails is logged, counted and started again after a growing pause."""

    def __init__(self, roles: Mapping[str, Role], metrics: Metrics) -> None:
        self._roles = dict(roles)
        self._metrics = metrics
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start all of them on the running loop."""
        self._tasks = [asyncio.create_task(self._keep(name, role), name=name) for name, role in self._roles.items()]

    async def stop(self) -> None:
        """Cancel all of them and wait until they have cleaned up."""
        for task in self._tasks:
            task.cancel()
        for ended in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                log.error("role failed while it stopped", error=str(ended) or repr(ended), exc_info=ended)

    async def _keep(self, name: str, role: Role) -> None:
        pause = BACKOFF_FIRST_S
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await role()
                log.warning("role ended", role=name)
            except Exception as error:
                if _is_cancelled():  # what failed is the cleaning up
                    raise
                self._metrics.role_crashes.labels(name).inc()
                trace = None if isinstance(error, EXPECTED) else error
                log.error("role failed", role=name, error=str(error) or repr(error), exc_info=trace, pause_s=pause)
            steady = asyncio.get_running_loop().time() - began > STEADY_S
            pause = BACKOFF_FIRST_S if steady else min(2 * pause, BACKOFF_LONGEST_S)
            await asyncio.sleep(pause)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
