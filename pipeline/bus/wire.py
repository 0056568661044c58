"""How events travel as AMQP messages."""

from __future__ import annotations

from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractIncomingMessage
from pydantic import ValidationError

from pipeline.bus.base import Item
from pipeline.topology import HEARTBEAT_TTL_S
from pipeline.vocabulary import Event, Heartbeat

KINDS: dict[str, type[Event] | type[Heartbeat]] = {"event": Event, "heartbeat": Heartbeat}


class Unreadable(Exception):
    """A message that is no event this version knows; says why."""


def routing_key(item: Item) -> str:
    """`job.<id>.<kind>` or `worker.<id>.heartbeat`."""
    return f"job.{item.job_id}.{item.kind}" if isinstance(item, Event) else f"worker.{item.worker_id}.heartbeat"


def encode(item: Item) -> Message:
    """Events survive a restart of the broker; heartbeats are worth nothing after some seconds."""
    body = item.model_dump_json().encode()
    if isinstance(item, Event):
        return Message(
            body,
            type="event",
            content_type="application/json",
            message_id=item.id,
            delivery_mode=DeliveryMode.PERSISTENT,
        )
    return Message(body, type="heartbeat", content_type="application/json", expiration=HEARTBEAT_TTL_S)


def decode(message: AbstractIncomingMessage) -> Item:
    """The event or heartbeat in `message`.

    Raises:
        Unreadable: of another kind or version, or damaged.
    """
    kind = KINDS.get(message.type or "")
    if kind is None:
        raise Unreadable(f"of type {message.type!r}")
    try:
        return kind.model_validate_json(message.body)
    except ValidationError as error:
        raise Unreadable(f"{error.error_count()} fields are wrong: {error.errors()[0]['loc']}") from error
