"""One contract for both brokers with real workers on them, and what RabbitMQ adds: outages, confirms, queue types."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import dramatiq
import pika
import pytest

from config.errors import ConfigError
from pipeline import broker as broker_module
from pipeline.broker import RabbitBroker, declare, open_broker
from pipeline.errors import BrokerError
from pipeline.topology import LANES
from tests.services import READY_S

QUEUE = "render.tiny"


@pytest.fixture(params=["memory", "classic", "quorum"])
def broker(request: pytest.FixtureRequest, t2m_settings) -> Iterator[dramatiq.Broker]:
    settings = t2m_settings(*([] if request.param == "memory" else ["rabbitmq"]))
    if request.param == "quorum":
        settings = settings.model_copy(update={"broker": settings.broker.model_copy(update={"queue_type": "quorum"})})
    with closing(open_broker(settings)) as broker:
        yield broker


@pytest.fixture
def rabbit(t2m_settings) -> Iterator[RabbitBroker]:
    with closing(open_broker(t2m_settings("rabbitmq"))) as broker:
        yield broker


@contextmanager
def closing(broker: dramatiq.Broker) -> Iterator[dramatiq.Broker]:
    try:
        yield broker
    finally:
        broker.close()


@contextmanager
def working(broker: dramatiq.Broker, threads: int = 1) -> Iterator[dramatiq.Worker]:
    worker = dramatiq.Worker(broker, worker_threads=threads, worker_timeout=50)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop(timeout=5000)


def until(condition: Callable[[], object], patience_s: float = 20) -> None:
    give_up = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < give_up, "it never came"
        time.sleep(0.02)


def actor(broker: dramatiq.Broker, work: Callable[[str], None], **options: object) -> dramatiq.Actor:
    return dramatiq.actor(work, broker=broker, actor_name="work", queue_name=QUEUE, **options)


def count(broker: RabbitBroker, queue: str) -> int:
    """Messages in a queue of the server that nobody holds; 0 if there is no such queue."""
    connection = pika.BlockingConnection(broker.parameters)
    try:
        return connection.channel().queue_declare(queue, passive=True).method.message_count
    except pika.exceptions.ChannelClosedByBroker:
        return 0
    finally:
        connection.close()


def dead_letters(broker: dramatiq.Broker) -> int:
    if isinstance(broker, RabbitBroker):
        return count(broker, f"{QUEUE}.XQ")
    return len(broker.dead_letters)


def test_a_broker_is_closed_while_a_thread_connects(rabbit):
    opened: list[bool] = []

    class Slow:
        """While it closes, another thread opens a connection."""

        def close(self) -> None:
            with ThreadPoolExecutor() as threads:
                opened.append(threads.submit(lambda: rabbit.channel.is_open).result(READY_S))

    slow, channel = Slow(), rabbit.channel
    rabbit.channels.add(slow)
    rabbit.close()
    rabbit.channels.remove(slow)
    assert opened == [True]
    assert not channel.is_open


def test_messages_are_worked_on_in_order(broker):
    done: list[str] = []
    work = actor(broker, done.append)
    with working(broker):
        for n in range(20):
            work.send(str(n))
        until(lambda: len(done) == 20)
    assert done == [str(n) for n in range(20)]


def test_a_message_sent_before_any_worker_waits(broker):
    declare(broker, [QUEUE])
    done: list[str] = []
    actor(broker, done.append).send("early")
    with working(broker):
        until(lambda: done == ["early"])


def test_what_fails_is_tried_again_and_then_kept_aside(broker):
    tries: list[str] = []

    def fail(word: str) -> None:
        tries.append(word)
        raise RuntimeError(word)

    work = actor(broker, fail, max_retries=2, min_backoff=10, max_backoff=20)
    with working(broker):
        work.send("bad")
        until(lambda: dead_letters(broker) == 1)
    assert tries == ["bad"] * 3


def test_a_busy_worker_hoards_nothing(broker):
    release, started = threading.Event(), []

    def hold(word: str) -> None:
        started.append(word)
        release.wait(120)

    work = actor(broker, hold)
    with working(broker) as first:
        for n in range(3):
            work.send(str(n))
        until(lambda: started)
        time.sleep(0.3)
        assert first.work_queue.qsize() == 0
        release.set()
        until(lambda: len(started) == 3)


def test_what_a_stopped_worker_had_not_done_is_done_by_the_next(broker):
    done: list[str] = []
    work = actor(broker, done.append)
    with working(broker):
        work.send("before")
        until(lambda: done)
    work.send("between")
    with working(broker):
        until(lambda: done == ["before", "between"])


def test_a_retry_outlives_the_worker_that_held_it(broker):
    tries: list[str] = []

    def fail_once(word: str) -> None:
        tries.append(word)
        if len(tries) == 1:
            raise RuntimeError(word)

    work = actor(broker, fail_once, max_retries=1, min_backoff=1000, max_backoff=1000)
    with working(broker):
        work.send("later")
        until(lambda: tries)
    with working(broker):
        until(lambda: len(tries) == 2)


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_what_waits_for_its_retry_is_held_by_no_worker(t2m_settings, queue_type: str):
    """It is in RabbitMQ, ready, while no worker lives, and comes back by itself when its time has come."""
    settings = t2m_settings("rabbitmq")
    kind = settings.broker.model_copy(update={"queue_type": queue_type})
    with closing(open_broker(settings.model_copy(update={"broker": kind}))) as broker:
        tries: list[float] = []

        def fail_once(word: str) -> None:
            tries.append(time.monotonic())
            if len(tries) == 1:
                raise dramatiq.Retry("later", delay=7000)

        work = actor(broker, fail_once, max_retries=1)
        with working(broker):
            work.send("later")
            until(lambda: tries)
            until(lambda: count(broker, f"{QUEUE}.wait.8") == 1)
        assert count(broker, QUEUE) == 0
        until(lambda: count(broker, QUEUE) == 1)
        with working(broker):
            until(lambda: len(tries) == 2)
    assert tries[1] - tries[0] >= 3


def test_a_short_wait_is_not_held_up_by_a_long_one(rabbit):
    done: list[str] = []
    work = actor(rabbit, done.append)
    with working(rabbit):
        work.send_with_options(args=("long",), delay=30_000)
        work.send_with_options(args=("short",), delay=500)
        until(lambda: done == ["short"], patience_s=10)


def test_the_time_limit_of_an_actor_holds(broker):
    interrupted = threading.Event()

    def run_long(word: str) -> None:
        try:
            while True:
                time.sleep(0.01)
        except dramatiq.middleware.TimeLimitExceeded:
            interrupted.set()

    work = actor(broker, run_long, time_limit=200)
    with working(broker):
        work.send("long")
        assert interrupted.wait(60)


def test_every_lane_is_served_with_its_threads():
    for lane in LANES.values():
        assert broker_module._prefetch(lane.queue) == lane.threads
        assert broker_module._prefetch(f"{lane.queue}.some-model") == lane.threads


def test_no_actor_runs_longer_than_rabbitmq_waits(broker):
    """RabbitMQ takes a message back after 30 min; a default that is too long would run jobs twice."""
    limits = [m.time_limit for m in broker.middleware if isinstance(m, dramatiq.middleware.TimeLimit)]
    assert limits == [max(lane.time_limit_s for lane in LANES.values()) * 1000]
    assert max(limits) + broker_module.RETRY_LONGEST_S * 1000 < 30 * 60 * 1000


def test_a_wrong_url_is_refused(t2m_settings):
    settings = t2m_settings().broker.model_copy(update={"url": t2m_settings().broker.url.__class__("amqp://h:port/")})
    with pytest.raises(ConfigError, match=r"broker\.url"):
        open_broker(t2m_settings().model_copy(update={"broker": settings}))


# RabbitMQ only


def send_to(broker: dramatiq.Broker, queue: str = QUEUE) -> None:
    broker.enqueue(dramatiq.Message(queue_name=queue, actor_name="work", args=("x",), kwargs={}, options={}))


def test_a_broker_that_is_down_is_an_error_of_one_line(rabbit, rabbitmq, monkeypatch):
    monkeypatch.setattr(broker_module, "SEND_LIMIT_S", 1.0)
    declare(rabbit, [QUEUE])
    rabbitmq.kill()
    try:
        for use in (lambda: send_to(rabbit), lambda: declare(rabbit, ["encode"])):
            with pytest.raises(BrokerError, match="cannot be reached") as refused:
                use()
            assert "\n" not in str(refused.value)
            assert refused.value.remedy
    finally:
        rabbitmq.start()


def test_a_send_outlasts_a_restart(rabbit, rabbitmq, monkeypatch):
    monkeypatch.setattr(broker_module, "SEND_LIMIT_S", READY_S)  # how long a restart takes, many tests at once decide
    declare(rabbit, [QUEUE])
    done: list[str] = []
    actor(rabbit, done.append)
    with working(rabbit):
        send_to(rabbit)
        until(lambda: len(done) == 1)
        restarting = threading.Thread(target=rabbitmq.restart)
        restarting.start()
        try:
            for _ in range(5):
                send_to(rabbit)
        finally:
            restarting.join()
        until(lambda: len(done) >= 6, patience_s=30)


def test_sends_are_confirmed(rabbit):
    """Only with confirms does a send notice that the queue is gone, and make it again."""
    declare(rabbit, [QUEUE])
    rabbit.channel.queue_delete(QUEUE)
    send_to(rabbit)
    assert count(rabbit, QUEUE) == 1


def test_a_retry_that_cannot_be_sent_goes_back_to_its_queue(rabbit, rabbitmq):
    """RabbitMQ that is short of memory blocks publishers, not consumers; Dramatiq alone would lose the message."""
    rabbit.parameters.blocked_connection_timeout = 0.5
    tries: list[str] = []

    def fail_at_first(word: str) -> None:
        tries.append(word)
        if len(tries) == 1:
            rabbitmq.limit_memory(0.000001)
            raise RuntimeError(word)

    work = actor(rabbit, fail_at_first, max_retries=5)
    try:
        with working(rabbit):
            work.send("precious")
            until(lambda: len(tries) == 2, patience_s=40)
            rabbitmq.limit_memory(0.4)
            until(lambda: (count(rabbit, QUEUE), count(rabbit, f"{QUEUE}.XQ")) == (0, 0))
    finally:
        rabbitmq.limit_memory(0.4)


def test_a_message_that_fails_while_the_broker_dies_is_worked_on_again(rabbit, rabbitmq, monkeypatch):
    monkeypatch.setattr(broker_module, "SEND_LIMIT_S", 0.5)
    tries, sent, killed = [], threading.Event(), threading.Event()

    def fail_at_first(word: str) -> None:
        tries.append(word)
        if len(tries) == 1:
            sent.wait(60)
            rabbitmq.kill()
            killed.set()
            raise RuntimeError(word)

    work = actor(rabbit, fail_at_first, max_retries=5)
    try:
        with working(rabbit):
            work.send("precious")
            sent.set()
            assert killed.wait(60)
            rabbitmq.start()
            until(lambda: len(tries) == 2, patience_s=40)
    finally:
        rabbitmq.start()


def test_a_broker_short_of_memory_says_so(rabbit, rabbitmq):
    rabbit.parameters.blocked_connection_timeout = 0.5
    declare(rabbit, [QUEUE])
    rabbitmq.limit_memory(0.000001)
    try:
        with pytest.raises(BrokerError, match="takes no messages"):
            send_to(rabbit)
    finally:
        rabbitmq.limit_memory(0.4)


def test_a_wrong_password_is_named(rabbit):
    rabbit.parameters.credentials = pika.PlainCredentials("guest", "wrong")
    with pytest.raises(BrokerError, match="refuses the login"):
        declare(rabbit, [QUEUE])


def test_a_changed_queue_type_is_named(rabbit, t2m_settings):
    declare(rabbit, [QUEUE])
    rabbit._queue_type = "quorum"
    rabbit.queues_pending.add(QUEUE)
    with pytest.raises(BrokerError, match="other arguments"):
        declare(rabbit, [QUEUE])
