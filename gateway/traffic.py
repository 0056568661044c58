"""The requests of the last hours, by minute."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

from typing_extensions import TypedDict

BOUNDS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 60_000)
HOURS = 168
"""Kept: a week."""


class TrafficView(TypedDict):
    """Requests that one gateway answered; percentiles are bounds ("at most")."""

    total: int
    errors: int
    error_rate: float | None
    average_ms: float | None
    p50_ms_at_most: int | None
    p95_ms_at_most: int | None


@dataclass
class Minute:
    """What was answered in one minute; `slots` counts answers by `BOUNDS_MS`."""

    requests: int = 0
    errors: int = 0
    seconds: float = 0.0
    slots: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_MS) + 1))


class Traffic:
    """Of this gateway, since it started."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._minutes: dict[int, Minute] = {}
        self.under_way = 0
        self.ending = False
        """This gateway goes: connections end with their answer."""

    def add(self, status: int, seconds: float) -> None:
        """An answer."""
        now = int(self._clock() // 60)
        minute = self._minutes.get(now)
        if minute is None:
            minute = self._minutes[now] = Minute()
            while next(iter(self._minutes)) <= now - HOURS * 60:
                del self._minutes[next(iter(self._minutes))]
        minute.requests += 1
        minute.errors += status >= 500
        minute.seconds += seconds
        minute.slots[bisect_left(BOUNDS_MS, seconds * 1000)] += 1

    def view(self, hours: int) -> TrafficView:
        """The answers of the last hours; times are None without any, percentiles the upper bounds of their slots."""
        since = int(self._clock() // 60) - hours * 60
        minutes = [minute for at, minute in self._minutes.items() if at > since]
        count = sum(minute.requests for minute in minutes)
        errors = sum(minute.errors for minute in minutes)
        slots = [sum(column) for column in zip(*(minute.slots for minute in minutes), strict=True)]
        return {
            "total": count,
            "errors": errors,
            "error_rate": round(errors / count, 6) if count else None,
            "average_ms": round(sum(minute.seconds for minute in minutes) * 1000 / count, 3) if count else None,
            "p50_ms_at_most": _percentile(slots, count, 0.5),
            "p95_ms_at_most": _percentile(slots, count, 0.95),
        }


def _percentile(slots: list[int], count: int, part: float) -> int | None:
    passed = 0
    for bound, number in zip(BOUNDS_MS, slots, strict=False):
        passed += number
        if count and passed >= part * count:
            return bound
    return None
