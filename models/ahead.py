"""One thread that works ahead: it denoises the next window while the caller decodes and encodes the last one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from models.contract import Interrupted

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

POLL_S = 0.5
"""How often a waiting caller wakes up to look whether its work is still wanted (the contract says once a second)."""


class Abandoned(Exception):
    """Raised inside the working thread by `send` once the caller has left."""


class Send(Protocol[T_contra]):
    """Hands a value to the caller; a bulky one waits while another bulky one lies unread."""

    def __call__(self, value: T_contra, *, bulky: bool = False) -> None:
        """Raises `Abandoned` when the caller has left."""


@dataclass(frozen=True)
class _Value(Generic[T]):
    value: T
    bulky: bool


@dataclass(frozen=True)
class _End:
    error: BaseException | None


class Ahead(Generic[T]):
    """Runs `work(send)` in a thread; `items` yields what it sends, in order, in the caller's thread.

    At most one bulky item is kept in store, other items never wait. An exception of `work` is raised in the caller,
    after all that was sent before it. Leaving the `with` block makes the next `send` raise `Abandoned` and waits for
    the thread's end, so no thread outlives its caller; but for a drain, where the process ends before the step may.
    """

    def __init__(self, work: Callable[[Send[T]], None]) -> None:
        self._work = work
        self._sent: queue.SimpleQueue[_Value[T] | _End] = queue.SimpleQueue()
        self._room = threading.Semaphore(1)
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="denoise-ahead", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._room.release()
        if not (isinstance(error, Interrupted) and error.reason == "drain"):
            self._thread.join()

    def items(self, wanted: Callable[[], None]) -> Iterator[T]:
        """All items until `work` returns; `wanted` is called before each and at least every `POLL_S` seconds.

        Raises:
            BaseException: whatever `work` or `wanted` raised.
        """
        while True:
            wanted()
            try:
                item = self._sent.get(timeout=POLL_S)
            except queue.Empty:
                continue
            if isinstance(item, _End):
                if item.error:
                    raise item.error
                return
            if item.bulky:
                self._room.release()
            yield item.value

    def _run(self) -> None:
        try:
            self._work(self._send)
        except Abandoned:
            return
        except BaseException as error:  # noqa: BLE001 - it is raised again in the caller's thread
            self._sent.put(_End(error))
        else:
            self._sent.put(_End(None))

    def _send(self, value: T, *, bulky: bool = False) -> None:
        if bulky and not self._left.is_set():
            self._room.acquire()
        if self._left.is_set():
            raise Abandoned
        self._sent.put(_Value(value, bulky))
