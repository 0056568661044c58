"""Calls that go together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gateway.together import Together

LIMIT_S = 20.0


class Doubler:
    """Doubles numbers, noting which came together; waits to be let go."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = asyncio.Event()

    async def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        await self.go.wait()
        if 13 in numbers:
            raise ValueError("unlucky")
        return [2 * number for number in numbers]


async def calls(together: Together[int, int], *numbers: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(together(number)) for number in numbers]
    await asyncio.sleep(0.01)
    return tasks


async def test_calls_wait_for_those_under_way_and_then_go_together() -> None:
    work = Doubler()
    together = Together(work)
    alone, some = await calls(together, 1), await calls(together, 2, 3, 4)
    assert work.batches == [[1]]
    work.go.set()
    assert await asyncio.gather(*alone, *some) == [2, 4, 6, 8]
    assert work.batches == [[1], [2, 3, 4]]
    assert await together(5) == 10


async def test_a_failure_is_told_to_those_who_went_together_and_to_nobody_else() -> None:
    work = Doubler()
    together = Together(work)
    first, unlucky = await calls(together, 1), await calls(together, 13, 2)
    work.go.set()
    assert await first[0] == 2
    last = asyncio.create_task(together(3))
    for task in unlucky:
        with pytest.raises(ValueError, match="unlucky"):
            await task
    assert await last == 6


async def test_who_gives_up_holds_nobody_back_and_is_not_asked_for() -> None:
    work = Doubler()
    together = Together(work)
    first, (leaving, staying) = await calls(together, 1), await calls(together, 2, 3)
    first[0].cancel()
    leaving.cancel()
    await asyncio.sleep(0.01)
    work.go.set()
    assert await asyncio.wait_for(staying, LIMIT_S) == 6
    assert work.batches == [[1], [3]]


async def test_work_that_answers_too_little_is_an_error() -> None:
    async def forgets(numbers: Sequence[int]) -> list[int]:
        return []

    with pytest.raises(ValueError, match="shorter"):
        await asyncio.wait_for(Together(forgets)(1), LIMIT_S)


async def test_callers_do_not_wait_for_work_that_was_cancelled() -> None:
    async def cancelled(numbers: Sequence[int]) -> list[int]:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(Together(cancelled)(1), LIMIT_S)
