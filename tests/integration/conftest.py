"""Fixtures of the integration tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pika
import pytest

from tests.services import RabbitMQ, Services


@pytest.fixture(scope="module")
def module_vhost(services: Services) -> Iterator[str]:
    """URL of a virtual host that the tests of a module share; making one takes seconds."""
    services.rabbitmq.start()
    url = services.rabbitmq.vhost()
    yield url
    services.rabbitmq.start()
    services.rabbitmq.control("delete_vhost", url.rpartition("/")[2])


@pytest.fixture
def emptied_vhost(module_vhost: str, rabbitmq: RabbitMQ) -> Callable[..., str]:
    """`emptied_vhost(*queues)`: the module's virtual host without these queues."""

    def delete(*queues: str) -> str:
        connection = pika.BlockingConnection(pika.URLParameters(module_vhost))
        channel = connection.channel()
        for queue in queues:
            channel.queue_delete(queue)
        connection.close()
        return module_vhost

    return delete
