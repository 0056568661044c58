"""Both sides of the event bus the settings ask for."""

from __future__ import annotations

from config.errors import ConfigError
from config.settings import Settings
from pipeline.bus.base import EventPublisher, EventSubscriber
from pipeline.bus.memory import MemoryBus, MemorySubscriber


def open_publisher(settings: Settings, memory: MemoryBus | None = None) -> EventPublisher:
    """A publisher on `broker.url`; for `memory://` it is `memory` itself.

    Raises:
        BrokerError: RabbitMQ cannot be reached.
        ConfigError: `memory://` without a bus to share.
    """
    if settings.embedded:
        return _shared(memory)
    from pipeline.bus.rabbitmq import RabbitPublisher

    return RabbitPublisher(settings.broker.url.get_secret_value(), settings.broker.queue_type)


def open_subscriber(settings: Settings, memory: MemoryBus | None = None, durable: bool = True) -> EventSubscriber:
    """A subscriber on `broker.url`, not yet connected; for `memory://` one of `memory`.

    Raises:
        ConfigError: `memory://` without a bus to share.
    """
    if settings.embedded:
        return MemorySubscriber(_shared(memory), durable=durable)
    from pipeline.bus.rabbitmq import RabbitSubscriber

    return RabbitSubscriber(settings.broker.url.get_secret_value(), settings.broker.queue_type, durable=durable)


def _shared(memory: MemoryBus | None) -> MemoryBus:
    if memory is None:
        raise ConfigError(
            "`broker.url` is memory://, which other processes cannot reach.",
            remedy="Set `broker.url` (T2M_BROKER__URL) to the amqp:// URL of a RabbitMQ server, or use `t2m serve`.",
        )
    return memory
