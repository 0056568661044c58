"""What T2M needs of an event bus.

`pipeline.bus.factory` opens both sides. Within one process they meet in one `MemoryBus`: it is the publisher, and
`open_subscriber(settings, memory=bus)` makes a subscriber of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from typing import Protocol, TypeAlias

from pipeline.vocabulary import Event, Heartbeat

Item: TypeAlias = Event | Heartbeat
Ack: TypeAlias = Callable[[], Awaitable[None]]
CancelListener: TypeAlias = Callable[[str], None]


class EventPublisher(Protocol):
    """Blocking and thread-safe; used by workers."""

    def publish(self, event: Event | Heartbeat) -> None:
        """Hand an event to the bus, confirmed; a heartbeat may get lost. Raises `BrokerError` after bounded retries."""

    def publish_soon(self, event: Event | Heartbeat) -> Future[None]:
        """Begin to `publish` and do not wait for it: the result is there, or the `BrokerError`, when it is done.

        Events of one thread go out in its order.
        """

    def on_cancel(self, listener: CancelListener) -> None:
        """Call `listener(job_id)`, from any thread, whenever a cancellation is broadcast; it must not block."""

    def close(self) -> None:
        """Release the connection; nothing can be published after it."""


class EventSubscriber(Protocol):
    """For asyncio; used by the projector, which loses nothing, and by clients that only watch.

    Durable subscribers share one queue of job events: each event goes to one of them, and again to one of them until it
    is acknowledged. Others get every job event while they run. Heartbeats go to every subscriber, and only while it
    runs.
    """

    async def start(self) -> None:
        """Connect and bind: what is published from now on will be seen. `events` does it if need be.

        Raises `BrokerError` when the broker cannot be reached; afterwards connections come back by themselves.
        """

    def events(self) -> AsyncIterator[tuple[Event | Heartbeat, Ack]]:
        """Everything from now on (of the durable queue: since the last one acknowledged), each with its `ack`.

        The iteration ends when the subscriber is closed. One iteration per subscriber.
        """

    async def broadcast_cancel(self, job_id: str) -> None:
        """Tell all workers to stop this job soon; works without `start` as well. Raises `BrokerError`."""

    async def close(self) -> None:
        """End the iteration and release the connection; what was not acknowledged stays in the durable queue."""
