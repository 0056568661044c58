"""A RabbitMQ that accepts connections and then says nothing, as a frozen machine does."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import Future

import dramatiq
import pytest
from dramatiq.errors import ConnectionClosed

from pipeline import broker as broker_module
from pipeline.broker import RabbitBroker
from pipeline.bus import outlet as outlet_module
from pipeline.bus.outlet import Outlet
from pipeline.errors import BrokerError
from pipeline.vocabulary import Heartbeat, now


@pytest.fixture
def silent_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(broker_module, "HANDSHAKE_S", 0.2)
    monkeypatch.setattr(broker_module, "SEND_LIMIT_S", 0.5)
    monkeypatch.setattr(outlet_module, "CONNECT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"amqp://guest:guest@127.0.0.1:{server.getsockname()[1]}/"


def test_a_send_says_that_it_cannot_be_reached(silent_url: str) -> None:
    message = dramatiq.Message[None](queue_name="encode", actor_name="work", args=(), kwargs={}, options={})
    broker = RabbitBroker(silent_url)
    for delay in (None, 1000):
        with pytest.raises(BrokerError, match="cannot be reached"):
            broker.enqueue(message, delay=delay)


def test_a_consumer_is_told_that_the_connection_is_lost(silent_url: str) -> None:
    broker = RabbitBroker(silent_url)
    with pytest.raises(ConnectionClosed):
        broker.consumer_class(broker, "encode", 1, 1000)  # type: ignore[call-arg]


def test_an_event_is_given_up_in_time(silent_url: str) -> None:
    outlet = Outlet(silent_url, limit_s=0.5)
    sent: Future[None] = outlet.send(Heartbeat(worker_id="w", host="h", queues=("encode",), at=now()))
    with pytest.raises(BrokerError, match="cannot be reached"):
        sent.result(timeout=60)
    outlet.close()
