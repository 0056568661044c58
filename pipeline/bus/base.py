"""What T2M needs of an event bus."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from pipeline.vocabulary import Event, Heartbeat


class EventPublisher(Protocol):
    """Blocking and thread-safe; used by workers."""

    def publish(self, event: Event | Heartbeat) -> None:
        """Hand an event to the bus, confirmed. Raises `BrokerError` after bounded retries."""

    def on_cancel(self, listener: Callable[[str], None]) -> None:
        """Call `listener(job_id)`, from any thread, whenever a cancellation is broadcast."""

    def close(self) -> None: ...


class EventSubscriber(Protocol):
    """For asyncio; used by the projector, which loses nothing, and by clients that only watch."""

    def events(self) -> AsyncIterator[tuple[Event | Heartbeat, Callable[[], Awaitable[None]]]]:
        """All events from now on (of the durable queue: since the last one acknowledged), each with its `ack`."""

    async def broadcast_cancel(self, job_id: str) -> None:
        """Tell all workers to stop this job soon."""

    async def close(self) -> None: ...
