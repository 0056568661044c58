"""Sends events from a thread of its own by pika, which takes a third of the CPU time aio-pika does."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from urllib.parse import urlsplit

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError

from pipeline.amqp import connecting
from pipeline.bus.wire import routing_key
from pipeline.errors import BrokerError
from pipeline.topology import EVENTS_EXCHANGE, HEARTBEAT_TTL_S
from pipeline.vocabulary import Event, Heartbeat

LOST = (AMQPError, OSError)
CONNECT_S, BLOCKED_S, HEARTBEAT_S = 5, 15, 30
PAUSE_S = 0.25
"""Between two tries."""


class Outlet:
    """Publishes events one after the other, each confirmed; the exchange must be there.

    Its connection dies while there is nothing to send, as nobody answers heartbeats then; the next event opens another.

    Args:
        limit_s: longest wait for a confirm, lost connections included.
    """

    def __init__(self, url: str, limit_s: float) -> None:
        self._where, self._limit_s = urlsplit(url).netloc.rpartition("@")[2], limit_s
        self._parameters = pika.URLParameters(url)
        self._parameters.heartbeat = HEARTBEAT_S
        self._parameters.socket_timeout = CONNECT_S
        self._parameters.stack_timeout = CONNECT_S
        self._parameters.blocked_connection_timeout = BLOCKED_S
        self._channel: BlockingChannel | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="outlet")

    def send(self, event: Event | Heartbeat) -> Future[None]:
        """Send soon; the result is there when it is confirmed, `BrokerError` when it is given up."""
        return self._thread.submit(self._send, event, time.monotonic() + self._limit_s)

    def close(self) -> None:
        """Send what is left, and disconnect."""
        self._thread.submit(self._disconnect)
        self._thread.shutdown()

    def _send(self, event: Event | Heartbeat, give_up: float) -> None:
        body, key, lasting = event.model_dump_json().encode(), routing_key(event), isinstance(event, Event)
        while True:
            try:
                self._open().basic_publish(EVENTS_EXCHANGE, key, body, _properties(event), mandatory=lasting)
                return
            except LOST as error:
                self._disconnect()
                if time.monotonic() + PAUSE_S > give_up:
                    raise BrokerError(
                        f"RabbitMQ at {self._where} cannot be reached.",
                        remedy="Check that it runs and that `broker.url` is right.",
                    ) from error
            time.sleep(PAUSE_S)

    def _open(self) -> BlockingChannel:
        if self._channel is None:
            with connecting():
                self._channel = pika.BlockingConnection(self._parameters).channel()
            self._channel.confirm_delivery()
        return self._channel

    def _disconnect(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None and channel.connection.is_open:
            try:
                channel.connection.close()
            except LOST:
                return


def _properties(event: Event | Heartbeat) -> pika.BasicProperties:
    """Events survive a restart of the broker; heartbeats are worth nothing after some seconds."""
    if isinstance(event, Event):
        return pika.BasicProperties(
            type="event",
            content_type="application/json",
            message_id=event.id,
            delivery_mode=pika.DeliveryMode.Persistent,
        )
    ttl_ms = str(round(HEARTBEAT_TTL_S * 1000))
    return pika.BasicProperties(type="heartbeat", content_type="application/json", expiration=ttl_ms)
