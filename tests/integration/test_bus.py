"""One contract for both event buses, and what RabbitMQ adds: restarts, outages, unreadable messages."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

import pika
import pytest
import pytest_asyncio

from pipeline import topology
from pipeline.bus import rabbitmq as rabbit_bus
from pipeline.bus.base import EventPublisher, EventSubscriber, Item
from pipeline.bus.factory import open_publisher, open_subscriber
from pipeline.bus.memory import MemoryBus
from pipeline.bus.rabbitmq import RabbitPublisher
from pipeline.errors import BrokerError
from pipeline.vocabulary import Event, EventKind, Heartbeat, Stage, new_id, now
from tests.services import READY_S


def event(n: int, job_id: str = "job_a") -> Event:
    return Event(
        id=new_id("event"), job_id=job_id, kind=EventKind.PROGRESS, stage=Stage.RENDER, epoch=1, hop=0, n=n, at=now()
    )


def heartbeat(worker_id: str = "w1") -> Heartbeat:
    return Heartbeat(worker_id=worker_id, host="here", queues=("encode",), at=now())


async def take(subscriber: EventSubscriber, count: int, *, ack: bool = True) -> list[Item]:
    taken: list[Item] = []
    async with asyncio.timeout(60):
        async for item, acknowledge in subscriber.events():
            taken.append(item)
            if ack:
                await acknowledge()
            if len(taken) == count:
                break
    return taken


class Bus:
    """Opens both sides of one bus and closes them in the end."""

    def __init__(self, settings, memory: MemoryBus | None) -> None:
        self.settings, self.memory = settings, memory
        self.opened: list[EventSubscriber] = []
        self.publishers: list[EventPublisher] = []

    def publisher(self) -> EventPublisher:
        self.publishers.append(open_publisher(self.settings, self.memory))
        return self.publishers[-1]

    async def subscriber(self, *, durable: bool = True) -> EventSubscriber:
        self.opened.append(open_subscriber(self.settings, self.memory, durable=durable))
        await self.opened[-1].start()
        return self.opened[-1]

    async def close(self) -> None:
        for subscriber in self.opened:
            await subscriber.close()
        for publisher in self.publishers:
            await asyncio.to_thread(publisher.close)


@pytest_asyncio.fixture(params=["memory", "rabbitmq"])
async def bus(request: pytest.FixtureRequest, t2m_settings) -> AsyncIterator[Bus]:
    memory = MemoryBus() if request.param == "memory" else None
    bus = Bus(t2m_settings(*([] if memory else ["rabbitmq"])), memory)
    yield bus
    await bus.close()


@pytest_asyncio.fixture
async def rabbit(t2m_settings) -> AsyncIterator[Bus]:
    bus = Bus(t2m_settings("rabbitmq"), None)
    yield bus
    await bus.close()


async def test_events_arrive_in_order(bus):
    subscriber, publisher = await bus.subscriber(), bus.publisher()
    sent = [event(n) for n in range(50)]
    await asyncio.to_thread(lambda: [publisher.publish(item) for item in sent])
    assert await take(subscriber, 50) == sent


async def test_each_thread_keeps_its_order(bus):
    subscriber, publisher = await bus.subscriber(), bus.publisher()
    with ThreadPoolExecutor(8) as pool:
        for n in range(8):
            pool.submit(lambda job: [publisher.publish(event(n, job)) for n in range(25)], f"job_{n}")
        taken = await take(subscriber, 200)
    for n in range(8):
        assert [item.n for item in taken if item.job_id == f"job_{n}"] == list(range(25))


async def test_what_nobody_reads_waits_for_the_projector(bus):
    await (await bus.subscriber()).close()
    sent, publisher = [event(0), event(1)], bus.publisher()
    await asyncio.to_thread(lambda: [publisher.publish(item) for item in sent])
    assert await take(await bus.subscriber(), 2) == sent


async def test_what_was_not_acknowledged_comes_again(bus):
    first, publisher = await bus.subscriber(), bus.publisher()
    sent = [event(n) for n in range(5)]
    await asyncio.to_thread(lambda: [publisher.publish(item) for item in sent])
    events = first.events()
    for _ in range(2):
        _, ack = await anext(events)
        await ack()
    await anext(events)
    await first.close()
    assert await take(await bus.subscriber(), 3) == sent[2:]


async def test_durable_subscribers_share_and_watchers_do_not(bus):
    durable, watchers = await bus.subscriber(), [await bus.subscriber(durable=False) for _ in range(2)]
    publisher, sent = bus.publisher(), [event(n) for n in range(3)]
    await asyncio.to_thread(lambda: [publisher.publish(item) for item in sent])
    for subscriber in [durable, *watchers]:
        assert await take(subscriber, 3) == sent


async def test_heartbeats_reach_watchers_and_projector(bus):
    subscribers = [await bus.subscriber(), await bus.subscriber(durable=False)]
    publisher, sent = bus.publisher(), heartbeat()
    await asyncio.to_thread(publisher.publish, sent)
    for subscriber in subscribers:
        assert await take(subscriber, 1) == [sent]


async def test_a_cancellation_reaches_every_publisher(bus):
    heard: list[tuple[int, str]] = []
    complete = threading.Event()

    def listener(number: int) -> Callable[[str], None]:
        def hear(job_id: str) -> None:
            heard.append((number, job_id))
            if len(heard) == 3:
                complete.set()

        return hear

    def failing(job_id: str) -> None:
        raise RuntimeError(job_id)

    for number in range(3):
        publisher = await asyncio.to_thread(bus.publisher)
        publisher.on_cancel(failing)
        publisher.on_cancel(listener(number))
    if bus.memory:
        bus.publishers = bus.publishers[:1]
    await (await bus.subscriber()).broadcast_cancel("job_x")
    assert await asyncio.to_thread(complete.wait, 10)
    assert sorted(heard) == [(0, "job_x"), (1, "job_x"), (2, "job_x")]


async def test_closing_ends_the_iteration(bus):
    subscriber = await bus.subscriber(durable=False)
    reading = asyncio.ensure_future(take(subscriber, 1))
    await asyncio.sleep(0)
    await subscriber.close()
    assert await reading == []


async def test_settings_without_a_shared_bus_are_refused(t2m_settings):
    from config.errors import ConfigError

    with pytest.raises(ConfigError, match="memory://"):
        open_publisher(t2m_settings())
    with pytest.raises(ConfigError, match="memory://"):
        open_subscriber(t2m_settings())


# RabbitMQ only


def queue_length(url: str, queue: str) -> int:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        return connection.channel().queue_declare(queue, passive=True).method.message_count
    finally:
        connection.close()


def url_of(bus: Bus) -> str:
    return bus.settings.broker.url.get_secret_value()


async def test_events_survive_a_restart_of_the_broker(rabbit, rabbitmq):
    subscriber, publisher = await rabbit.subscriber(), await asyncio.to_thread(rabbit.publisher)
    watcher = await rabbit.subscriber(durable=False)
    heard = threading.Event()
    publisher.on_cancel(lambda job_id: heard.set())
    events = subscriber.events()
    sent = [event(n) for n in range(4)]
    await asyncio.to_thread(publisher.publish, sent[0])
    await anext(events)  # taken, never acknowledged
    await asyncio.to_thread(rabbitmq.restart)
    for item in sent[1:]:
        await asyncio.to_thread(publisher.publish, item)
    seen: list[Item] = []
    async with asyncio.timeout(60):
        while {item.id for item in seen} != {item.id for item in sent}:
            item, ack = await anext(events)
            seen.append(item)
            await ack()
    await take(watcher, 1)
    async with asyncio.timeout(60):
        while not heard.is_set():  # until the publisher's own queue is back, too
            await subscriber.broadcast_cancel("job_x")
            await asyncio.sleep(0.1)


async def test_events_keep_their_order_over_an_outage(rabbit, rabbitmq, monkeypatch):
    monkeypatch.setattr(rabbit_bus, "PUBLISH_S", READY_S)  # how long a restart takes, many tests at once decide
    subscriber, publisher = await rabbit.subscriber(), await asyncio.to_thread(rabbit.publisher)
    stopped, sent = threading.Event(), []
    restarting = asyncio.ensure_future(asyncio.to_thread(rabbitmq.restart))

    def publish() -> None:
        promised = []
        while not stopped.wait(0.01):
            sent.append(event(len(sent)))
            promised.append(publisher.publish_soon(sent[-1]))
        for future in promised:
            future.result(READY_S)

    publishing = asyncio.ensure_future(asyncio.to_thread(publish))
    await restarting
    await asyncio.sleep(0.2)
    stopped.set()
    await publishing
    order: dict[int, None] = {}  # what was sent twice counts where it came first
    async with asyncio.timeout(60):
        async for item, ack in subscriber.events():
            order[item.n] = None
            await ack()
            if len(order) == len(sent):
                break
    assert list(order) == list(range(len(sent)))


async def test_publishing_to_a_broker_that_is_down_fails_in_bounded_time(rabbit, rabbitmq, monkeypatch):
    monkeypatch.setattr(rabbit_bus, "PUBLISH_S", 1.0)
    publisher = await asyncio.to_thread(rabbit.publisher)
    await asyncio.to_thread(rabbitmq.kill)
    try:
        with pytest.raises(BrokerError, match="cannot be reached") as refused:
            await asyncio.wait_for(asyncio.to_thread(publisher.publish, event(0)), 60)
        assert "\n" not in str(refused.value)
        with pytest.raises(BrokerError, match="cannot be reached"):
            await asyncio.to_thread(RabbitPublisher, url_of(rabbit))
    finally:
        await asyncio.to_thread(rabbitmq.start)


async def test_a_wrong_password_is_named(rabbit):
    user_and_host = url_of(rabbit).split("@")
    with pytest.raises(BrokerError, match="refuses the login"):
        await asyncio.to_thread(RabbitPublisher, "amqp://guest:wrong@" + user_and_host[1])


async def test_a_wrong_queue_type_is_named(rabbit):
    await rabbit.subscriber()
    with pytest.raises(BrokerError, match="other arguments"):
        await asyncio.to_thread(RabbitPublisher, url_of(rabbit), "quorum")


@pytest.mark.parametrize("body,kind", [(b"\xff{", "event"), (b"{}", "event"), (b"", None), (b"", "later")])
async def test_unreadable_messages_are_kept_aside(rabbit, body, kind):
    subscriber = await rabbit.subscriber()
    await send_raw(url_of(rabbit), body, kind)
    publisher, sent = await asyncio.to_thread(rabbit.publisher), event(0)
    await asyncio.to_thread(publisher.publish, sent)
    assert await take(subscriber, 1) == [sent]
    await until(lambda: queue_length(url_of(rabbit), topology.PROJECTOR_DEAD_LETTERS) == 1)


async def test_a_later_version_is_kept_aside(rabbit):
    subscriber = await rabbit.subscriber()
    later = json.loads(event(0).model_dump_json()) | {"version": 2}
    await send_raw(url_of(rabbit), json.dumps(later).encode(), "event")
    await until(lambda: queue_length(url_of(rabbit), topology.PROJECTOR_DEAD_LETTERS) == 1)
    await subscriber.close()


async def test_heartbeats_do_not_pile_up(rabbit):
    publisher = await asyncio.to_thread(rabbit.publisher)
    for _ in range(5):
        await asyncio.to_thread(publisher.publish, heartbeat())
    await asyncio.to_thread(publisher.publish, event(0))
    assert await asyncio.to_thread(queue_length, url_of(rabbit), topology.PROJECTOR_QUEUE) == 1


async def test_events_are_on_disk(rabbit, rabbitmq):
    """A confirmed event outlives the broker's violent death, even if no gateway ever ran."""
    publisher, sent = await asyncio.to_thread(rabbit.publisher), event(0)
    await asyncio.to_thread(publisher.publish, sent)
    await asyncio.to_thread(rabbitmq.kill)
    await asyncio.to_thread(rabbitmq.start)
    assert await take(await rabbit.subscriber(), 1) == [sent]


async def send_raw(url: str, body: bytes, kind: str | None) -> None:
    def send() -> None:
        connection = pika.BlockingConnection(pika.URLParameters(url))
        connection.channel().basic_publish(
            topology.EVENTS_EXCHANGE, "job.x.progress", body, pika.BasicProperties(type=kind)
        )
        connection.close()

    await asyncio.to_thread(send)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.05)
