"""How events travel as AMQP messages."""

from __future__ import annotations

from aio_pika.abc import AbstractIncomingMessage
from pydantic import ValidationError

from pipeline.bus.base import Item
from pipeline.vocabulary import Event, Heartbeat

KINDS: dict[str, type[Event] | type[Heartbeat]] = {"event": Event, "heartbeat": Heartbeat}


class Unreadable(Exception):
    """A message that is no event this version knows; says why."""


def routing_key(item: Item) -> str:
    """`job.<id>.<kind>` or `worker.<id>.heartbeat`."""
    return f"job.{item.job_id}.{item.kind}" if isinstance(item, Event) else f"worker.{item.worker_id}.heartbeat"


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
