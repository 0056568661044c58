"""A TCP proxy that misbehaves on demand: between T2M's processes and a server, on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.services import HOST, free_port

PIECE = 16 * 1024
"""Bytes moved at a time: small, so that latency and bandwidth are felt inside large transfers."""


@dataclass(frozen=True)
class Weather:
    """How the way is.

    Attributes:
        latency_s: added to every piece in either direction.
        bytes_per_s: of each connection; None: as fast as it goes.
        open: pieces pass; where not, connections stay open and nothing arrives (a black hole).
    """

    latency_s: float = 0.0
    bytes_per_s: float | None = None
    open: bool = True


FAIR = Weather()


class Proxy:
    """Listens on `port` and forwards to `target`, a port of this machine.

    Args:
        host: address of this machine at which it listens.
    """

    def __init__(self, name: str, target: int, host: str = HOST) -> None:
        self.name, self.port, self._target, self._host = name, free_port(), target, host
        self._weather = FAIR
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._passable = asyncio.Event()
        self._passable.set()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{name}", daemon=True)
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, host, self.port))

    @property
    def address(self) -> str:
        return f"{self._host}:{self.port}"

    @property
    def connections(self) -> int:
        """Open ones, from clients."""
        return len(self._writers) // 2

    def set(self, weather: Weather) -> None:
        self._run(self._set(weather))

    def reset(self) -> None:
        """Cut every connection: both ends get a reset."""
        self._run(self._reset())

    def close(self) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _set(self, weather: Weather) -> None:
        self._weather = weather
        self._passable.set() if weather.open else self._passable.clear()

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _reset(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._passable.wait()
            far_reader, far_writer = await asyncio.open_connection(HOST, self._target)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, far_writer}
        self._writers |= ends
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far_writer))
                group.create_task(self._pump(far_reader, writer))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(PIECE):
            weather = self._weather
            pause_s = weather.latency_s + (len(piece) / weather.bytes_per_s if weather.bytes_per_s else 0.0)
            if pause_s:
                await asyncio.sleep(pause_s)
            await self._passable.wait()
            writer.write(piece)
            await writer.drain()
        with suppress(OSError, RuntimeError):
            writer.write_eof()
