"""A bounded queue from threads to asyncio readers."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Full(Exception):
    """The mailbox stayed full for the whole time given."""


class Mailbox(Generic[T]):
    """First in, first out; written by any thread, read by tasks of any event loop, each item by one of them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._readers: deque[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = deque()

    def put(self, item: T, patience_s: float) -> None:
        """Append, waiting up to `patience_s` for room.

        Raises:
            Full: there was no room in all that time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._items) < self._limit, patience_s):
                raise Full
            self._append(item)

    def put_newest(self, item: T) -> None:
        """Append, dropping the oldest item if there is no room."""
        with self._changed:
            if len(self._items) >= self._limit:
                self._items.popleft()
            self._append(item)

    def put_back(self, items: Iterable[T]) -> None:
        """Give back items that were taken, in the order they were taken, ahead of all others."""
        with self._changed:
            self._items.extendleft(reversed(list(items)))
            self._wake_readers()

    async def get(self, finished: Callable[[], bool]) -> T | None:
        """Take the oldest item, waiting for one; None as soon as the reader is `finished` (see `wake`)."""
        while True:
            with self._changed:
                if finished():
                    return None
                if self._items:
                    self._changed.notify()
                    return self._items.popleft()
                loop = asyncio.get_running_loop()
                woken = loop.create_future()
                self._readers.append((loop, woken))
            await woken

    def wake(self) -> None:
        """Let all readers look again whether they are finished."""
        with self._changed:
            self._wake_readers()

    def _append(self, item: T) -> None:
        self._items.append(item)
        self._wake_readers()

    def _wake_readers(self) -> None:
        # All of them: a reader that was cancelled meanwhile would not pass the news on.
        while self._readers:
            loop, woken = self._readers.popleft()
            if not loop.is_closed():
                loop.call_soon_threadsafe(_wake, woken)


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
