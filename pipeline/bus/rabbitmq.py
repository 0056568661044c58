"""The event bus on RabbitMQ, by aio-pika.

Publishers live in worker threads that may compute for minutes, and AMQP connections die when nobody answers heartbeats.
So a `RabbitPublisher` has a thread of its own, with an event loop that serves the connection, sends what other threads
hand over, and listens for cancellations. Connections come back by themselves, and with them queues and consumers.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aio_pika
import structlog
from aio_pika import ExchangeType, Message
from aio_pika.abc import (
    AbstractIncomingMessage,
    AbstractRobustChannel,
    AbstractRobustConnection,
    AbstractRobustExchange,
    AbstractRobustQueue,
)
from aiormq.exceptions import AMQPError, ChannelPreconditionFailed, ProbableAuthenticationError

from pipeline import topology
from pipeline.bus.base import Ack, Item
from pipeline.bus.listeners import Listeners
from pipeline.bus.outlet import Outlet
from pipeline.bus.wire import Unreadable, decode
from pipeline.errors import BrokerError

log = structlog.get_logger(__name__)
T = TypeVar("T")

CONNECT_S = 5.0
"""Longest wait for a first connection."""
PUBLISH_S = 15.0
"""Longest wait for a confirm, lost connections included: longer than RabbitMQ's restart takes."""
PAUSE_S = 0.25
"""Between two tries to publish, and to connect again."""
HEARTBEAT_S = 30
PREFETCH = 200
"""Events a subscriber holds unacknowledged."""
DEAD_LETTER_TTL_MS = 7 * 24 * 3600 * 1000
WATCHER_LIMIT = 10_000
"""Events the server keeps for a subscriber that only watches; the oldest are dropped."""
LOST = (AMQPError, OSError, RuntimeError, asyncio.TimeoutError)
"""What aio-pika raises while a connection is down; `RuntimeError` is its closed channel's."""


@dataclass
class Link:
    """A connection with the exchanges declared, and the durable queue, so that no event is ever unroutable."""

    url: str
    connection: AbstractRobustConnection
    channel: AbstractRobustChannel
    events: AbstractRobustExchange
    control: AbstractRobustExchange
    projector: AbstractRobustQueue
    resending: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    async def open(cls, url: str, queue_type: str) -> Link:
        """Connect once and declare.

        Raises:
            BrokerError: RabbitMQ cannot be reached or refuses.
        """
        connection = None
        try:
            connection = await aio_pika.connect_robust(
                url, timeout=CONNECT_S, heartbeat=HEARTBEAT_S, reconnect_interval=PAUSE_S, fail_fast=True
            )
            return await cls._declare(url, connection, queue_type)
        except LOST as error:
            if connection is not None:
                await connection.close()
            raise _explain(url, error) from error

    @classmethod
    async def _declare(cls, url: str, connection: AbstractRobustConnection, queue_type: str) -> Link:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        await channel.set_qos(prefetch_count=PREFETCH)
        events = await channel.declare_exchange(topology.EVENTS_EXCHANGE, ExchangeType.TOPIC, durable=True)
        control = await channel.declare_exchange(topology.CONTROL_EXCHANGE, ExchangeType.FANOUT, durable=True)
        await channel.declare_queue(
            topology.PROJECTOR_DEAD_LETTERS,
            durable=True,
            arguments={"x-queue-type": queue_type, "x-message-ttl": DEAD_LETTER_TTL_MS},
        )
        projector = await channel.declare_queue(
            topology.PROJECTOR_QUEUE,
            durable=True,
            arguments={
                "x-queue-type": queue_type,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": topology.PROJECTOR_DEAD_LETTERS,
            },
        )
        await projector.bind(events, topology.JOB_EVENTS)
        return cls(url, connection, channel, events, control, projector)

    async def temporary_queue(self, exchange: AbstractRobustExchange, *keys: str) -> AbstractRobustQueue:
        """A queue of this connection alone, which keeps a bounded number of messages."""
        queue = await self.channel.declare_queue(
            exclusive=True, auto_delete=True, arguments={"x-max-length": WATCHER_LIMIT}
        )
        for key in keys:
            await queue.bind(exchange, key)
        return queue

    async def send(self, exchange: AbstractRobustExchange, message: Message, key: str, *, mandatory: bool) -> None:
        """Publish until confirmed; what must be sent again goes in the order it failed, and before what is new.

        Raises:
            BrokerError: no confirm came for 15 s.
        """
        publish = partial(exchange.publish, message, key, mandatory=mandatory)
        give_up = time.monotonic() + PUBLISH_S
        if not self.resending.locked() and await _failure(publish, give_up) is None:
            return
        async with self.resending:
            while (error := await _failure(publish, give_up)) is not None:
                if time.monotonic() + PAUSE_S > give_up:
                    raise _explain(self.url, error) from error
                await asyncio.sleep(PAUSE_S)


class RabbitPublisher(Listeners):
    """An `EventPublisher`; connects at once.

    Args:
        url: amqp[s]://user:password@host:port/vhost.
        queue_type: of the projector's queue, "classic" or "quorum".

    Raises:
        BrokerError: RabbitMQ cannot be reached.
    """

    def __init__(self, url: str, queue_type: str = "classic") -> None:
        super().__init__()
        self._outlet = Outlet(url, PUBLISH_S)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="event-bus", daemon=True)
        self._thread.start()
        try:
            self._link = self._run(self._open(url, queue_type))
        except BaseException:
            self._end()
            raise

    def publish(self, event: Item) -> None:
        """See `EventPublisher.publish`. A retry after a lost confirm may send an event twice, with the same id."""
        self._wait(self.publish_soon(event))

    def publish_soon(self, event: Item) -> Future[None]:
        """See `EventPublisher.publish_soon`."""
        return self._outlet.send(event)

    def close(self) -> None:
        """See `EventPublisher.close`."""
        if self._thread.is_alive():
            self._outlet.close()
            self._run(self._link.connection.close())
            self._end()

    async def _open(self, url: str, queue_type: str) -> Link:
        link = await Link.open(url, queue_type)
        queue = await link.temporary_queue(link.control, "")
        await queue.consume(self._hear, no_ack=True)
        return link

    async def _hear(self, message: AbstractIncomingMessage) -> None:
        self.tell(message.body.decode(errors="replace"))

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._wait(asyncio.run_coroutine_threadsafe(coroutine, self._loop))

    def _wait(self, future: Future[T]) -> T:
        try:
            return future.result(PUBLISH_S + CONNECT_S)
        except FutureTimeout:
            future.cancel()
            raise BrokerError("The event bus does not answer.") from None

    def _end(self) -> None:
        self._run(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class RabbitSubscriber:
    """An `EventSubscriber`; connects with `start`, the first iteration or the first broadcast, which reads nothing.

    Args:
        url: amqp[s]://user:password@host:port/vhost.
        queue_type: of the projector's queue, "classic" or "quorum".
        durable: share the projector's queue; else watch what is published from the start on.
    """

    def __init__(self, url: str, queue_type: str = "classic", *, durable: bool = True) -> None:
        self._url, self._queue_type, self._durable = url, queue_type, durable
        self._link: Link | None = None
        self._consuming = False
        self._starting = asyncio.Lock()
        self._received: asyncio.Queue[tuple[Item, Ack] | None] = asyncio.Queue()

    async def start(self) -> None:
        """See `EventSubscriber.start`."""
        link = await self._linked()
        async with self._starting:
            if not self._consuming:
                await self._consume(link)
                self._consuming = True

    def events(self) -> AsyncIterator[tuple[Item, Ack]]:
        """See `EventSubscriber.events`. After a lost connection, what was not acknowledged comes again."""
        return self._read()

    async def broadcast_cancel(self, job_id: str) -> None:
        """See `EventSubscriber.broadcast_cancel`."""
        link = await self._linked()
        await link.send(link.control, Message(job_id.encode()), "", mandatory=False)

    async def close(self) -> None:
        """See `EventSubscriber.close`."""
        link, self._link = self._link, None
        self._received.put_nowait(None)
        if link is not None:
            await link.connection.close()

    async def _linked(self) -> Link:
        async with self._starting:
            if self._link is None:
                self._link = await Link.open(self._url, self._queue_type)
            return self._link

    async def _consume(self, link: Link) -> None:
        keys = [topology.HEARTBEATS] if self._durable else [topology.HEARTBEATS, topology.JOB_EVENTS]
        watched = await link.temporary_queue(link.events, *keys)
        await watched.consume(self._take)
        if self._durable:
            await link.projector.consume(self._take)

    async def _take(self, message: AbstractIncomingMessage) -> None:
        try:
            item = decode(message)
        except Unreadable as error:
            log.warning("event_unreadable", routing_key=message.routing_key, reason=str(error))
            await message.reject(requeue=False)  # the projector's queue dead-letters it
            return
        self._received.put_nowait((item, _acknowledge(message)))

    async def _read(self) -> AsyncIterator[tuple[Item, Ack]]:
        await self.start()
        while (received := await self._received.get()) is not None:
            yield received


async def _failure(publish: Callable[[], Awaitable[object]], give_up: float) -> BaseException | None:
    """Why `publish` was not confirmed before `give_up` (of the monotonic clock); None if it was."""
    try:
        async with asyncio.timeout(max(0.0, give_up - time.monotonic())):
            await publish()
    except LOST as error:
        return error
    return None


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _acknowledge(message: AbstractIncomingMessage) -> Callable[[], Awaitable[None]]:
    async def ack() -> None:
        try:
            await message.ack()
        except LOST:
            # The connection it came by is gone, and it comes again by the next.
            log.info("event_ack_lost", message_id=message.message_id)

    return ack


def _explain(url: str, error: BaseException) -> BrokerError:
    where = urlsplit(url).netloc.rpartition("@")[2]
    if isinstance(error, ProbableAuthenticationError):
        return BrokerError(f"RabbitMQ at {where} refuses the login.", remedy="Check user and password in `broker.url`.")
    if isinstance(error, ChannelPreconditionFailed):
        return BrokerError(
            f"RabbitMQ at {where} has a queue or exchange with other arguments: {error.reason}.",
            remedy="Drain and delete it, or set `broker.queue_type` back.",
        )
    return BrokerError(
        f"RabbitMQ at {where} cannot be reached.", remedy="Check that it runs and that `broker.url` is right."
    )
