"""What this process and its machine are doing."""

from __future__ import annotations

import asyncio
import time
from collections import deque

import psutil
from typing_extensions import TypedDict

FRESH_S = 0.5
"""Processor use is measured over at least this long."""
BEAT_S = 0.25
BEATS = 240
"""Of the event loop, kept: a minute."""


class ProcessView(TypedDict):
    """The gateway's own process; percent, bytes, seconds."""

    cpu_usage: float
    memory_bytes: int
    threads: int
    open_files: int
    uptime_seconds: float


class MachineView(TypedDict):
    """The gateway's machine; percent, bytes."""

    cpu_usage: float
    cpu_count: int | None
    memory_usage: float
    memory_used_bytes: int
    memory_total_bytes: int
    process: ProcessView


class LoopView(TypedDict):
    """The event loop over the last minute; null before the first beat."""

    tasks: int
    loop_lag_ms: float | None
    loop_lag_max_ms: float | None
    loop: str


class Machine:
    """Measures processors, memory and the event loop. `pulse` runs as a role."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._lags: deque[float] = deque(maxlen=BEATS)
        self._began = time.monotonic()
        self._cpu = (psutil.cpu_percent(None), self._process.cpu_percent(None))  # begins the first interval
        self._measured_at = self._began
        self._lock = asyncio.Lock()

    async def view(self) -> MachineView:
        """Percentages of the whole machine, and this process's part."""
        cpu, own_cpu = await self._processors()
        memory = psutil.virtual_memory()
        return {
            "cpu_usage": cpu,
            "cpu_count": psutil.cpu_count(),
            "memory_usage": memory.percent,
            "memory_used_bytes": memory.total - memory.available,
            "memory_total_bytes": memory.total,
            "process": {
                "cpu_usage": own_cpu,
                "memory_bytes": self._process.memory_info().rss,
                "threads": self._process.num_threads(),
                "open_files": self._process.num_fds(),
                "uptime_seconds": round(time.monotonic() - self._began, 3),
            },
        }

    async def pulse(self) -> None:
        """Measure how late the event loop runs what is due, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + BEAT_S
            await asyncio.sleep(BEAT_S)
            self._lags.append(loop.time() - due)

    def loop_view(self) -> LoopView:
        """The event loop over the last minute, and what waits in it."""
        lags = sorted(self._lags)
        tasks = asyncio.all_tasks()
        return {
            "tasks": len(tasks),
            "loop_lag_ms": round(lags[len(lags) // 2] * 1000, 3) if lags else None,
            "loop_lag_max_ms": round(lags[-1] * 1000, 3) if lags else None,
            "loop": type(asyncio.get_running_loop()).__name__,
        }

    def sockets(self, port: int) -> int:
        """Connections of clients to a port of this process."""
        found = self._process.net_connections(kind="tcp")
        return sum(one.status == psutil.CONN_ESTABLISHED and one.laddr.port == port for one in found)

    async def _processors(self) -> tuple[float, float]:
        async with self._lock:
            passed = time.monotonic() - self._measured_at
            if passed < FRESH_S and self._measured_at == self._began:
                await asyncio.sleep(FRESH_S - passed)
                passed = FRESH_S
            if passed >= FRESH_S:
                self._cpu = (psutil.cpu_percent(None), self._process.cpu_percent(None))
                self._measured_at = time.monotonic()
            return self._cpu
