"""The message broker: Dramatiq on RabbitMQ, or within this process for embedded use; set up here and nowhere else.

What is set on purpose, in both:

- Only the middleware of `_middleware`. The default ten minutes of `TimeLimit` become the longest lane's limit; actors
  set their own lane's. There is no `AgeLimit`: a job that waited long is still wanted. There are no `Callbacks` and
  `Pipelines`: the chain sends its next message itself, after the record of the stage is written.
- A message that is to come back later waits in RabbitMQ, in a queue without consumers whose expired messages go to
  the queue they are for. Dramatiq would keep it unacknowledged in a worker's memory, where the consumer timeout runs,
  and where nothing fires while there are no workers.
- A queue hands out as many messages at once as its lane has threads, so that a busy worker never hoards what an idle
  one could run.

A broker of Dramatiq is thread-safe and blocks: call it from worker threads, never from an event loop.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import RLock, Semaphore
from typing import Any
from urllib.parse import urlsplit

import dramatiq
import pika
from dramatiq.broker import Consumer, MessageProxy
from dramatiq.brokers import rabbitmq
from dramatiq.brokers.rabbitmq import RabbitmqBroker, _RabbitmqConsumer
from dramatiq.common import current_millis, dq_name, q_name, xq_name
from dramatiq.errors import BrokerConnectionError, ConnectionClosed
from dramatiq.middleware import Middleware, Retries, ShutdownNotifications, TimeLimit

from config.errors import ConfigError
from config.settings import Settings
from pipeline.amqp import connecting
from pipeline.errors import BrokerError
from pipeline.topology import LANES

RETRY_FIRST_S, RETRY_LONGEST_S = 1, 30
DELAYED_PREFETCH = 100
"""Delayed messages that are looked at in memory: one that is due late must not hide another that is due soon."""
WAITS_S = (1, 2, 4, 8, 16, 32, 64)
"""Longest delays of the waiting queues. RabbitMQ looks only at the head of a queue for what has expired; with delays of
like length in one queue, none waits for more than twice its own."""
SEND_LIMIT_S = 15.0
"""How long a send goes on trying while RabbitMQ refuses connections: longer than its restart takes."""
SEND_PAUSE_S = 0.5
HEARTBEAT_S = 30
"""AMQP heartbeat: a dead peer is noticed within a minute, and a busy Python thread is not taken for one."""
CONNECT_S, HANDSHAKE_S = 3, 5
BLOCKED_S = 60
"""How long a send waits for a RabbitMQ that is short of memory or disk. It may take what was sent up to then later."""
DEAD_LETTER_TTL_S = 7 * 24 * 3600
DELIVERY_LIMIT = 20
"""Deliveries after which a quorum queue takes a message for poison (RabbitMQ 4's default)."""
DEAD_LETTERS_KEPT = 1000
# One try of Dramatiq's each, and no six at once: `RabbitBroker.enqueue` repeats with pauses, and not while blocked.
rabbitmq.MAX_ENQUEUE_ATTEMPTS = 1
HAND_BACK = "hand_back"


class BrokerLost(BrokerError, BrokerConnectionError):
    """RabbitMQ cannot be reached; also the error that Dramatiq's own threads take for a lost connection."""


class BrokerBlocked(BrokerLost):
    """RabbitMQ runs, but is short of memory or disk and takes no messages."""


def open_broker(settings: Settings) -> dramatiq.Broker:
    """The broker of `settings.broker`. Does not connect yet: `declare` does, or the first send.

    Raises:
        ConfigError: `broker.url` is neither memory:// nor a valid amqp:// or amqps:// URL.
    """
    if settings.embedded:
        return InProcessBroker()
    return RabbitBroker(settings.broker.url.get_secret_value(), settings.broker.queue_type)


def declare(broker: dramatiq.Broker, queues: Iterable[str]) -> None:
    """Make sure that the queues exist, with their delay and dead-letter queues.

    Raises:
        BrokerError: RabbitMQ cannot be reached, or has a queue of that name with other arguments.
    """
    for queue in queues:
        if isinstance(broker, RabbitBroker):
            broker.declare_queue(queue, ensure=True)
        else:
            broker.declare_queue(queue)


class RabbitBroker(RabbitmqBroker):
    """Dramatiq's RabbitMQ broker with publisher confirms, bounded waits and T2M's errors.

    Args:
        url: amqp[s]://user:password@host:port/vhost.
        queue_type: "classic" or "quorum"; dead letters are kept for a week in `<queue>.XQ` of the same type.
    """

    def __init__(self, url: str, queue_type: str = "classic") -> None:
        try:
            super().__init__(url=url, confirm_delivery=True, middleware=_middleware())
        except ValueError as error:
            raise ConfigError(f"`broker.url` is not a valid AMQP URL: {error}.") from error
        self._queue_type = queue_type
        self._where = urlsplit(url).netloc.rpartition("@")[2]
        _bound_waits(self.parameters)
        # pika reports each idle connection that the server dropped; what matters arrives as BrokerError.
        logging.getLogger("pika").setLevel(logging.CRITICAL)

    @property
    def consumer_class(self) -> type[Consumer]:
        """The consumer that can also hand messages back."""
        return _RabbitConsumer

    @RabbitmqBroker.connection.getter  # type: ignore[attr-defined, untyped-decorator]  # Dramatiq's deleter stays
    def connection(self) -> pika.BlockingConnection:
        """This thread's connection, opened where there is none. Raises `AMQPConnectionError`."""
        with connecting():
            return super().connection

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:
        """Consume with the prefetch of the queue's lane, whatever the worker asks for."""
        return super().consume(queue_name, _prefetch(queue_name), timeout)

    def declare_queue(self, queue_name: str, *, ensure: bool = False) -> None:
        """Declare a queue; with `ensure`, on the server.

        Raises:
            BrokerLost: RabbitMQ cannot be reached, or has the queue with other arguments.
        """
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.queues_pending.add(queue_name)
            self.emit_after("declare_queue", queue_name)
        try:
            if ensure:
                self._ensure_queue(queue_name)  # type: ignore[no-untyped-call]
        except BrokerLost:
            raise
        except BrokerConnectionError as error:
            raise self.lost(error) from error

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        """Send a message and wait until RabbitMQ has it. A retry after a lost confirm may send it twice.

        Args:
            delay: milliseconds it waits in RabbitMQ before it is delivered, at most about a minute.

        Raises:
            BrokerLost: RabbitMQ could not be reached for 15 s, or took nothing for 60 s.
        """
        give_up = time.monotonic() + SEND_LIMIT_S
        pause_s = 0.0  # an idle connection that the server dropped is noticed by the first try
        while True:
            try:
                return super().enqueue(message) if delay is None else self._enqueue_later(message, delay)
            except BrokerConnectionError as error:
                lost = self.lost(error)
                if isinstance(lost, BrokerBlocked) or time.monotonic() + pause_s > give_up:
                    raise lost from error
            time.sleep(pause_s)
            pause_s = SEND_PAUSE_S

    def close(self) -> None:
        """Close what is open now; Dramatiq's own fails where a thread that still sends opens a connection meanwhile."""
        for part in (*self.channels, *self.connections):
            with suppress(Exception):  # those of other threads, which may be amid a call, can fail in any way
                part.close()

    def _enqueue_later(self, message: dramatiq.Message[Any], delay: int) -> dramatiq.Message[Any]:
        queue = message.queue_name
        self.declare_queue(queue, ensure=True)
        longest = next((wait for wait in WAITS_S if delay <= wait * 1000), WAITS_S[-1])
        waiting = f"{queue}.wait.{longest}"
        after = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue, "x-queue-type": self._queue_type}
        properties = pika.BasicProperties(delivery_mode=2, expiration=str(min(delay, longest * 1000)))
        try:
            self.channel.queue_declare(queue=waiting, durable=True, arguments=after)
            self.emit_before("enqueue", message, delay)
            self.channel.basic_publish("", waiting, message.encode(), properties, mandatory=True)
        except (pika.exceptions.AMQPConnectionError, pika.exceptions.AMQPChannelError) as error:
            del self.connection
            raise ConnectionClosed(error) from None  # type: ignore[no-untyped-call]
        self.emit_after("enqueue", message, delay)
        return message

    def _declare_dq_queue(self, queue_name: str) -> None:
        """None: see `_enqueue_later`."""

    def _build_queue_arguments(self, queue_name: str) -> dict[str, Any]:
        limit = {"x-delivery-limit": DELIVERY_LIMIT} if self._queue_type == "quorum" else {}
        arguments: dict[str, Any] = super()._build_queue_arguments(queue_name)  # type: ignore[no-untyped-call]
        return arguments | {"x-queue-type": self._queue_type} | limit

    def _declare_xq_queue(self, queue_name: str) -> pika.frame.Method:
        arguments = {"x-queue-type": self._queue_type, "x-message-ttl": DEAD_LETTER_TTL_S * 1000}
        return self.channel.queue_declare(queue=xq_name(queue_name), durable=True, arguments=arguments)

    def lost(self, error: Exception) -> BrokerLost:
        """`error` of pika or Dramatiq as one of ours."""
        wrapped = getattr(error, "message", None)
        cause = wrapped if isinstance(wrapped, BaseException) else error
        return explain(cause, self._where)


def _bound_waits(parameters: pika.URLParameters) -> None:
    parameters.heartbeat = HEARTBEAT_S
    parameters.blocked_connection_timeout = BLOCKED_S
    parameters.socket_timeout = CONNECT_S
    parameters.stack_timeout = HANDSHAKE_S


def explain(cause: BaseException, where: str) -> BrokerLost:
    """One line about why RabbitMQ at `where` cannot be used, and what to do."""
    if isinstance(cause, pika.exceptions.ConnectionBlockedTimeout):
        return BrokerBlocked(
            f"RabbitMQ at {where} takes no messages.", remedy="It is short of memory or disk: see `rabbitmqctl status`."
        )
    if isinstance(cause, pika.exceptions.ProbableAuthenticationError):
        return BrokerLost(
            f"RabbitMQ at {where} refuses the login.", remedy="Check the user and password in `broker.url`."
        )
    if isinstance(cause, pika.exceptions.ProbableAccessDeniedError):
        return BrokerLost(f"RabbitMQ at {where} refuses access.", remedy="Check the virtual host in `broker.url`.")
    if isinstance(cause, pika.exceptions.ChannelClosedByBroker) and cause.reply_code == 406:
        return BrokerLost(
            f"RabbitMQ at {where} has a queue with other arguments: {cause.reply_text}.",
            remedy="Drain and delete that queue, or set `broker.queue_type` back.",
        )
    return BrokerLost(
        f"RabbitMQ at {where} cannot be reached.", remedy="Check that it runs and that `broker.url` is right."
    )


class _RabbitConsumer(_RabbitmqConsumer):
    def __init__(self, broker: RabbitBroker, queue_name: str, prefetch: int, timeout: int) -> None:
        try:
            with connecting():
                super().__init__(broker, queue_name, prefetch, timeout)  # type: ignore[no-untyped-call]
        except pika.exceptions.AMQPConnectionError as error:
            raise ConnectionClosed(error) from None  # type: ignore[no-untyped-call]

    def nack(self, message: MessageProxy) -> None:
        if not message.options.get(HAND_BACK):
            super().nack(message)  # type: ignore[no-untyped-call]
        elif message._tag in self.known_tags:
            self.known_tags.remove(message._tag)
            self._requeue(message._tag)

    def _requeue(self, tag: int) -> None:
        try:
            self.connection.add_callback_threadsafe(partial(self.channel.basic_nack, tag, requeue=True))
        except pika.exceptions.AMQPError as error:  # then the server requeues it by itself
            raise ConnectionClosed(error) from None  # type: ignore[no-untyped-call]


class InProcessBroker(dramatiq.Broker):
    """Queues in the memory of this process, with real workers on them; for embedded use.

    Dramatiq's own `StubBroker` is made for tests: it keeps every dead letter for ever together with its exception,
    hence with all that the failed frames held (tensors, for one), and on a worker's shutdown drops what was prefetched
    or delayed. Here messages are kept as bytes, dead letters are the last `DEAD_LETTERS_KEPT`, and what a closing
    consumer has not acknowledged goes back to its queue. Nothing survives the process: embedded T2M takes up its
    unfinished jobs from the database and the store when it starts.
    """

    def __init__(self) -> None:
        super().__init__(middleware=_middleware())
        self.dead_letters: deque[dramatiq.Message[Any]] = deque(maxlen=DEAD_LETTERS_KEPT)
        self.queues: dict[str, SimpleQueue[bytes]]
        self._declaring = RLock()

    def declare_queue(self, queue_name: str) -> None:
        """Make the queue and its delay queue, unless they are there."""
        with self._declaring:
            if queue_name not in self.queues:
                self._declare(queue_name, dq_name(queue_name))

    def get_declared_queues(self) -> set[str]:
        """Names of the queues, without the delay queues."""
        return set(self.queues) - self.delay_queues

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 100) -> Consumer:
        """Consume with the prefetch of the queue's lane, whatever the worker asks for."""
        self.declare_queue(q_name(queue_name))
        return _InProcessConsumer(self.queues[queue_name], self.dead_letters, _prefetch(queue_name), timeout / 1000)

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        """Append a message to its queue, or to its delay queue for `delay` milliseconds."""
        self.declare_queue(q_name(message.queue_name))
        if delay is not None:
            message = message.copy(queue_name=dq_name(message.queue_name), options={"eta": current_millis() + delay})
        self.emit_before("enqueue", message, delay)
        self.queues[message.queue_name].put(message.encode())
        self.emit_after("enqueue", message, delay)
        return message

    def _declare(self, queue_name: str, delayed: str) -> None:
        self.emit_before("declare_queue", queue_name)
        self.queues |= {queue_name: SimpleQueue(), delayed: SimpleQueue()}
        self.delay_queues.add(delayed)
        self.emit_after("declare_queue", queue_name)
        self.emit_after("declare_delay_queue", delayed)


class _InProcessConsumer(Consumer):
    def __init__(
        self, queue: SimpleQueue[bytes], dead_letters: deque[dramatiq.Message[Any]], prefetch: int, timeout_s: float
    ) -> None:
        self._queue, self._dead_letters, self._timeout_s = queue, dead_letters, timeout_s
        self._free = Semaphore(prefetch)
        self._taken: dict[str, bytes] = {}

    def __next__(self) -> MessageProxy | None:
        if not self._free.acquire(timeout=self._timeout_s):
            return None
        try:
            data = self._queue.get(timeout=self._timeout_s)
        except Empty:
            self._free.release()
            return None
        message = dramatiq.Message.decode(data)
        self._taken[message.message_id] = data
        return MessageProxy(message)

    def ack(self, message: MessageProxy) -> None:
        if self._taken.pop(message.message_id, None) is not None:
            self._free.release()

    def nack(self, message: MessageProxy) -> None:
        if data := self._taken.get(message.message_id):
            self._dead_letters.append(dramatiq.Message.decode(data))
        self.ack(message)

    def close(self) -> None:
        while self._taken:
            self._queue.put(self._taken.popitem()[1])


class WorkerTimeLimit(TimeLimit):
    """`TimeLimit` that works in any worker; Dramatiq's own starts only under Dramatiq's command line."""

    _watching = False

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Start the watching thread with the first worker of the process."""
        if not self._watching:
            self._watching = True
            self.manager.start()

    def after_process_boot(self, broker: dramatiq.Broker) -> None:
        """Nothing more to start."""


class SafeRetries(Retries):
    """`Retries` that lose no message when the retry cannot be sent.

    Dramatiq acknowledges a failed message even if its retry was not sent, as when RabbitMQ is short of disk and blocks
    publishers but not consumers. Here the message goes back to its queue instead.
    """

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: MessageProxy,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        """Send the message again later, if it failed and may be tried again."""
        try:
            super().after_process_message(  # type: ignore[no-untyped-call]
                broker, message, result=result, exception=exception
            )
        except BrokerError:
            message.options[HAND_BACK] = True
            message.fail()


def _middleware() -> list[Middleware]:
    longest_s = max(lane.time_limit_s for lane in LANES.values())
    return [
        WorkerTimeLimit(time_limit=longest_s * 1000),
        ShutdownNotifications(),
        SafeRetries(
            max_retries=max(lane.max_retries for lane in LANES.values()),
            min_backoff=RETRY_FIRST_S * 1000,
            max_backoff=RETRY_LONGEST_S * 1000,
        ),
    ]


def _prefetch(queue: str) -> int:
    if queue.endswith(".DQ"):
        return DELAYED_PREFETCH
    return next((lane.threads for lane in LANES.values() if queue.split(".")[0] == lane.queue), 1)
