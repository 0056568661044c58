"""Puts calls of one kind together, so that they share the cost of a round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Together(Generic[K, V]):
    """Calls that come while others are under way go together once those are done, and never later than that.

    So a call that is alone waits for nobody, and what is answered was read after the call came.

    Args:
        work: answers many calls at once, in their order.
    """

    def __init__(self, work: Callable[[Sequence[K]], Awaitable[Sequence[V]]]) -> None:
        self._work = work
        self._waiting: list[tuple[K, asyncio.Future[V]]] = []
        self._working: asyncio.Task[None] | None = None

    async def __call__(self, asked: K) -> V:
        """Raises what `work` raises, which then fails for all that went together."""
        answer: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, answer))
        if self._working is None:
            self._working = asyncio.create_task(self._answer())
        return await answer

    async def _answer(self) -> None:
        try:
            while self._waiting:
                calls, self._waiting = self._waiting, []
                await self._answer_all(calls)
        finally:
            self._working = None

    async def _answer_all(self, calls: Sequence[tuple[K, asyncio.Future[V]]]) -> None:
        try:
            values = await self._work([asked for asked, _ in calls])
        except Exception as error:  # noqa: BLE001 - each caller deals with it
            for _, answer in calls:
                if not answer.done():  # who gave up no longer waits
                    answer.set_exception(error)
        else:
            for (_, answer), value in zip(calls, values, strict=True):
                if not answer.done():
                    answer.set_result(value)
