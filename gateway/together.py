"""Puts calls of one kind together, so that they share the cost of a round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Together(Generic[K, V]):
    """Calls that come while others are under way go together once those are done, and never later than that.

    So a call that is alone waits for nobody, and what is answered was read after the call came.

    Args:
        work: answers many calls at once, in their order; has a time limit of its own.
    """

    def __init__(self, work: Callable[[Sequence[K]], Awaitable[Sequence[V]]]) -> None:
        self._work = work
        self._waiting: list[tuple[K, asyncio.Future[V]]] = []
        self._working: asyncio.Task[None] | None = None

    async def __call__(self, asked: K) -> V:
        """Raises what `work` raises, which then fails for all that went together."""
        answer: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, answer))
        if self._working is None:  # in no caller's context: it works for many
            self._working = asyncio.get_running_loop().create_task(self._answer(), context=Context())
        return await answer

    async def _answer(self) -> None:
        try:
            await asyncio.sleep(0)  # whose requests have arrived by now goes along
            while self._waiting:
                calls, self._waiting = self._waiting, []
                await self._answer_all([call for call in calls if not call[1].done()])
        finally:
            self._working = None

    async def _answer_all(self, calls: Sequence[tuple[K, asyncio.Future[V]]]) -> None:
        try:
            values = await self._work([asked for asked, _ in calls])
            for (_, answer), value in zip(calls, values, strict=True):
                if not answer.done():  # whose caller gave up
                    answer.set_result(value)
        except Exception as error:  # noqa: BLE001 - each caller deals with it
            for _, answer in calls:
                if not answer.done():
                    answer.set_exception(error)
        finally:
            for _, answer in calls:
                answer.cancel()  # where this task was cancelled itself
