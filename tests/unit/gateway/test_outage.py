"""While Redis is away nobody waits for it, and its return is noticed."""

from __future__ import annotations

import asyncio

import pytest

from gateway import outage
from gateway.outage import Outage


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "PAUSE_S", 0.01)


async def test_it_is_over_when_a_ping_is_answered(quick: None) -> None:
    back, asked = asyncio.Event(), asyncio.Queue[None]()

    async def ping() -> None:
        asked.put_nowait(None)
        if not back.is_set():
            raise OSError("away")

    away = Outage("nothing works", ping)
    assert away.over
    away.begin(OSError("gone"))
    away.begin(OSError("gone"))
    async with asyncio.timeout(10):
        for _ in range(3):
            await asked.get()
            assert not away.over
        back.set()
        while not away.over:
            await asked.get()
            await asyncio.sleep(0)
    assert asked.empty(), "one asks, however many failed"


async def test_closing_ends_the_waiting(quick: None) -> None:
    async def ping() -> None:
        await asyncio.sleep(60)

    away = Outage("nothing works", ping)
    away.begin(OSError("gone"))
    async with asyncio.timeout(10):
        await away.close()
