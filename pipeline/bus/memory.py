"""The event bus within one process: for embedded use."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future
from functools import partial
from itertools import count

from pipeline.bus.base import Ack, Item
from pipeline.bus.listeners import Listeners
from pipeline.bus.mailbox import Full, Mailbox
from pipeline.errors import BrokerError
from pipeline.vocabulary import Event

MAILBOX_LIMIT = 10_000
"""Events a reader may lag behind: some 10 MB, and more than a hundred jobs make together."""
SLOW_READER_S = 10.0
"""How long a publisher waits for a durable reader that lags that far."""


class MemoryBus(Listeners):
    """An `EventPublisher`, and the exchange that the `MemorySubscriber`s of it share.

    The durable mailbox exists from the first durable subscriber's start on and outlives subscribers, as the projector's
    queue does on RabbitMQ. When `limit` events wait in it, publishers wait `slow_reader_s`, and then fail. A mailbox of
    a mere watcher drops its oldest event instead.
    """

    def __init__(self, *, limit: int = MAILBOX_LIMIT, slow_reader_s: float = SLOW_READER_S) -> None:
        super().__init__()
        self._limit, self._slow_reader_s = limit, slow_reader_s
        self._lock = threading.Lock()
        self._durable: Mailbox[Item] | None = None
        self._watched: list[Mailbox[Item]] = []

    def publish(self, event: Item) -> None:
        """See `EventPublisher.publish`.

        Raises:
            BrokerError: the durable reader is `limit` events behind and does not catch up.
        """
        with self._lock:
            durable, watched = self._durable, list(self._watched)
        for mailbox in watched:
            mailbox.put_newest(event)
        if durable is not None:
            self._keep(durable, event)

    def publish_soon(self, event: Item) -> Future[None]:
        """See `EventPublisher.publish_soon`. Waits as `publish` does: it is done when it returns."""
        done: Future[None] = Future()
        try:
            self.publish(event)
        except BrokerError as error:
            done.set_exception(error)
        else:
            done.set_result(None)
        return done

    def durable(self) -> Mailbox[Item]:
        """The mailbox that all durable subscribers share."""
        with self._lock:
            self._durable = self._durable or Mailbox(self._limit)
            return self._durable

    def watch(self) -> Mailbox[Item]:
        """A new mailbox that gets all that is published from now on."""
        mailbox: Mailbox[Item] = Mailbox(self._limit)
        with self._lock:
            self._watched.append(mailbox)
        return mailbox

    def unwatch(self, mailbox: Mailbox[Item]) -> None:
        """Stop filling a mailbox of `watch`."""
        with self._lock:
            self._watched.remove(mailbox)

    def close(self) -> None:
        """See `EventPublisher.close`: there is no connection to release."""

    def _keep(self, durable: Mailbox[Item], event: Item) -> None:
        lasting = isinstance(event, Event)
        try:
            durable.put(event, self._slow_reader_s if lasting else 0)
        except Full:
            if not lasting:
                return  # the next heartbeat says the same
            raise BrokerError(
                f"{self._limit} events wait for a reader that takes none.", remedy="Restart T2M."
            ) from None


class MemorySubscriber:
    """An `EventSubscriber` of a `MemoryBus`."""

    def __init__(self, bus: MemoryBus, *, durable: bool = True) -> None:
        self._bus, self._durable = bus, durable
        self._mailbox: Mailbox[Item] | None = None
        self._unacknowledged: dict[int, Item] = {}
        self._numbers = count()
        self._closed = False

    async def start(self) -> None:
        """See `EventSubscriber.start`."""
        self._open()

    def events(self) -> AsyncIterator[tuple[Item, Ack]]:
        """See `EventSubscriber.events`."""
        return self._read(self._open())

    async def broadcast_cancel(self, job_id: str) -> None:
        """See `EventSubscriber.broadcast_cancel`."""
        self._bus.tell(job_id)

    async def close(self) -> None:
        """See `EventSubscriber.close`."""
        if self._closed or self._mailbox is None:
            return
        self._closed = True
        if self._durable:
            self._mailbox.put_back(self._unacknowledged.values())
        else:
            self._bus.unwatch(self._mailbox)
        self._unacknowledged = {}
        self._mailbox.wake()

    def _open(self) -> Mailbox[Item]:
        if self._mailbox is None:
            self._mailbox = self._bus.durable() if self._durable else self._bus.watch()
        return self._mailbox

    async def _read(self, mailbox: Mailbox[Item]) -> AsyncIterator[tuple[Item, Ack]]:
        while (item := await mailbox.get(lambda: self._closed)) is not None:
            number = next(self._numbers)
            self._unacknowledged[number] = item
            yield item, partial(self._acknowledge, number)

    async def _acknowledge(self, number: int) -> None:
        self._unacknowledged.pop(number, None)
