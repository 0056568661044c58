"""Messages that the broker gave up, kept in the store until somebody has looked at them.

RabbitMQ puts what it delivered too often, or what no worker could read, into `<queue>.XQ`. A gateway takes it from
there, so that nothing dies unseen: the letter is kept here and its job ends with a reason.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from datetime import datetime, timedelta
from typing import Any

import dramatiq
import pika
from dramatiq.common import xq_name
from pydantic import AwareDatetime, ValidationError

from pipeline.broker import RabbitBroker
from pipeline.errors import AlreadyExists, ObjectMissing
from pipeline.store.base import ObjectStore
from pipeline.vocabulary import Failure, Final, StageMessage, Status, Word, now

FOLDER = "dead/"
KEPT = timedelta(days=7)
DRAMATIQ_REJECTED = "rejected"


class DeadLetter(Word):
    """A message that was given up.

    Attributes:
        id: Dramatiq's id of the message.
        reason: RabbitMQ's word for it: "delivery_limit", "rejected", "expired", "maxlen".
        body: what was sent, as text.
    """

    id: str
    queue: str
    reason: str
    at: AwareDatetime
    body: str

    @property
    def message(self) -> StageMessage | None:
        """The stage message in it; None if it holds none that this release can read."""
        try:
            return StageMessage.model_validate(json.loads(self.body)["args"][0])
        except (ValueError, LookupError, TypeError, ValidationError):
            return None

    def verdict(self, message: StageMessage) -> Final:
        """How the job of its message ends, unless it has ended otherwise."""
        failure = Failure(
            stage=message.stage,
            code="DeadLettered",
            message=f"The message queue gave the {message.stage} up ({self.reason}).",
            remedy=f"`t2m dlq show {self.id}` tells more; see the workers' logs for crashes.",
        )
        return Final(job_id=message.job_id, status=Status.FAILED, at=now(), failure=failure)


class DeadLetters:
    """The letters in a store. Methods raise what the store raises."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def keep(self, letter: DeadLetter) -> None:
        """Keep a letter; twice is harmless."""
        try:
            self._store.create(_key(letter.id), letter.model_dump_json().encode())
        except AlreadyExists:
            return

    def get(self, letter_id: str) -> DeadLetter:
        """The letter with this id. Raises `ObjectMissing`."""
        try:
            return DeadLetter.model_validate_json(self._store.get(_key(letter_id))[0])
        except ObjectMissing:
            raise ObjectMissing(
                f"There is no dead letter {letter_id}.", remedy="`t2m dlq list` shows those there are."
            ) from None

    def all(self) -> Iterator[DeadLetter]:
        """All letters."""
        for info in self._store.list(FOLDER):
            yield DeadLetter.model_validate_json(self._store.get(info.key)[0])

    def drop(self, letter_id: str) -> None:
        """Remove a letter."""
        self._store.delete(_key(letter_id))

    def expire(self, at: datetime) -> None:
        """Remove letters that nobody wanted for `KEPT`."""
        for info in list(self._store.list(FOLDER)):
            if info.modified_at < (at - KEPT).timestamp():
                self._store.delete(info.key)


def collect(broker: RabbitBroker, queue: str, letters: DeadLetters) -> Generator[DeadLetter]:
    """Move what `<queue>.XQ` holds into `letters`; each is acknowledged when the next is asked for.

    Blocks; to be called, and closed, in one thread. Raises `BrokerError`, `StoreError`.
    """
    broker.declare_queue(queue, ensure=True)
    try:
        while True:
            method, properties, body = broker.channel.basic_get(xq_name(queue))
            if method is None:
                return
            letter = _letter(queue, properties, body)
            letters.keep(letter)
            yield letter
            broker.channel.basic_ack(method.delivery_tag)
    except pika.exceptions.AMQPError as error:
        del broker.connection
        raise broker.lost(error) from error
    except BaseException:  # of the store, or of who asked: the letter goes back to its queue with the connection
        del broker.connection
        raise


def requeue(broker: dramatiq.Broker, letter: DeadLetter) -> None:
    """Send a letter's message to its queue once more. Raises `BrokerError`."""
    broker.enqueue(dramatiq.Message.decode(letter.body.encode()).copy(queue_name=letter.queue))


def _letter(queue: str, properties: pika.BasicProperties, body: bytes) -> DeadLetter:
    deaths: list[dict[str, Any]] = (properties.headers or {}).get("x-death") or [{}]
    text = body.decode("utf-8", "replace")
    try:
        letter_id = str(json.loads(text)["message_id"])
    except (ValueError, LookupError, TypeError):
        letter_id = f"unreadable-{now():%Y%m%dT%H%M%S%f}"
    reason = str(deaths[0].get("reason", DRAMATIQ_REJECTED))
    return DeadLetter(id=letter_id, queue=queue, reason=reason, at=now(), body=text)


def _key(letter_id: str) -> str:
    return f"{FOLDER}{letter_id}.json"
