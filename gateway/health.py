"""Asks each part the gateway depends on, and says how it answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import aio_pika
import structlog
from typing_extensions import TypedDict

from gateway.database.engine import Database
from gateway.envelope import Time, timestamp
from pipeline.store.base import ObjectStore
from pipeline.vocabulary import now

log = structlog.get_logger(__name__)

LIMIT_S = 3.0
"""A part that needs longer counts as down."""
FRESH_S = 1.0
"""Anybody may ask for the health, so the parts are asked at most this often."""

Check = Callable[[], Awaitable[object]]


class PartHealth(TypedDict):
    """How a part of the system is."""

    status: Literal["healthy", "unhealthy"]
    response_time: str
    last_check: Time


@dataclass(frozen=True)
class Answer:
    """How one part answered; `seconds` until it did, or until it was given up."""

    healthy: bool
    seconds: float
    at: datetime

    @property
    def view(self) -> PartHealth:
        """In the words of the API document's health example."""
        return {
            "status": "healthy" if self.healthy else "unhealthy",
            "response_time": f"{self.seconds * 1000:.0f}ms",
            "last_check": timestamp(self.at),
        }


class Health:
    """Checks by name; answers of the last second are used again, and simultaneous questions share one round."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = dict(checks)
        self._lock = asyncio.Lock()
        self._answers: dict[str, Answer] = {}
        self._asked_at = float("-inf")

    async def report(self) -> dict[str, Answer]:
        """The answer of every part."""
        async with self._lock:
            if time.monotonic() - self._asked_at > FRESH_S:
                answers = await asyncio.gather(*(ask(name, check) for name, check in self._checks.items()))
                self._answers = dict(zip(self._checks, answers, strict=True))
                self._asked_at = time.monotonic()
            return self._answers


async def ask(name: str, check: Check) -> Answer:
    """How one part answers."""
    began = time.monotonic()
    try:
        await asyncio.wait_for(check(), LIMIT_S)
        healthy = True
    except Exception as error:  # noqa: BLE001 - however a part fails, it is down
        log.warning("unhealthy", part=name, error=repr(error))
        healthy = False
    return Answer(healthy, time.monotonic() - began, now())


def alone(call: Callable[[], object]) -> Check:
    """A check by a call that blocks. Giving it up does not end its thread, so who asks meanwhile waits for the same."""
    running: asyncio.Future[object] | None = None

    async def check() -> None:
        nonlocal running
        if running is None or running.done():
            running = asyncio.get_running_loop().run_in_executor(None, call)
            running.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # perhaps nobody waits
        await asyncio.wait([running])
        running.result()

    return check


def checks(database: Database, store: ObjectStore, broker_url: str) -> dict[str, Check]:
    """The parts every request path needs; an in-process broker has no check, as it is up when this process is."""

    async def ask_broker() -> None:
        await (await aio_pika.connect(broker_url, timeout=LIMIT_S)).close()

    found: dict[str, Check] = {"database": database.ping, "store": alone(store.ping)}
    return found if broker_url.startswith("memory:") else found | {"broker": ask_broker}
