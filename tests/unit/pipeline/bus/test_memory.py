"""Slow and absent readers of the in-process bus."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.bus.mailbox import Mailbox
from pipeline.bus.memory import MemoryBus, MemorySubscriber
from pipeline.errors import BrokerError
from pipeline.vocabulary import Event, EventKind, Heartbeat, Stage, now


def event(n: int) -> Event:
    return Event(id=str(n), job_id="job_a", kind=EventKind.LOG, stage=Stage.ENCODE, epoch=1, hop=0, n=n, at=now())


async def drain(subscriber: MemorySubscriber) -> list[int | str]:
    """What waits, by n or worker id."""
    subscriber_events, taken = subscriber.events(), []
    with pytest.raises(TimeoutError):
        while True:
            item, ack = await asyncio.wait_for(anext(subscriber_events), 0.05)
            await ack()
            taken.append(item.n if isinstance(item, Event) else item.worker_id)
    return taken


async def test_without_readers_nothing_is_kept():
    bus = MemoryBus(limit=1, slow_reader_s=0)
    for n in range(100):
        bus.publish(event(n))
    assert await drain(MemorySubscriber(bus)) == []


async def test_a_slow_watcher_misses_the_oldest_and_holds_up_nobody():
    bus = MemoryBus(limit=3, slow_reader_s=0)
    watcher = MemorySubscriber(bus, durable=False)
    await watcher.start()
    for n in range(10):
        bus.publish(event(n))
    assert await drain(watcher) == [7, 8, 9]


async def test_a_stuck_projector_stops_publishers_with_an_error():
    bus = MemoryBus(limit=2, slow_reader_s=0.01)
    projector = MemorySubscriber(bus)
    await projector.start()
    bus.publish(event(0))
    bus.publish(event(1))
    with pytest.raises(BrokerError, match="2 events wait"):
        bus.publish(event(2))
    bus.publish(Heartbeat(worker_id="w", host="h", queues=(), at=now()))
    assert await drain(projector) == [0, 1]


async def test_a_slow_projector_loses_nothing():
    bus = MemoryBus(limit=2, slow_reader_s=20)
    projector = MemorySubscriber(bus)
    events = projector.events()
    with ThreadPoolExecutor(1) as pool:
        published = pool.submit(lambda: [bus.publish(event(n)) for n in range(50)])
        taken = []
        async for item, ack in events:
            taken.append(item.n)
            await ack()
            if len(taken) == 50:
                break
    published.result()
    assert taken == list(range(50))


async def test_closed_watchers_are_forgotten():
    bus = MemoryBus(limit=1)
    for _ in range(5):
        watcher = MemorySubscriber(bus, durable=False)
        await watcher.start()
        await watcher.close()
        await watcher.close()
    assert bus._watched == []


async def test_items_go_to_one_of_several_readers_and_cancelled_readers_lose_none():
    mailbox: Mailbox[int] = Mailbox(100)
    given_up = [asyncio.ensure_future(mailbox.get(lambda: False)) for _ in range(3)]
    await asyncio.sleep(0)
    for task in given_up[:2]:
        task.cancel()
    threading.Thread(target=lambda: [mailbox.put(n, 0) for n in range(4)]).start()
    rest = [await asyncio.wait_for(mailbox.get(lambda: False), 5) for _ in range(3)]
    assert sorted([await given_up[2], *rest]) == [0, 1, 2, 3]


def test_readers_on_several_event_loops():
    mailbox: Mailbox[int] = Mailbox(1000)

    def read() -> list[int | None]:
        async def take() -> list[int | None]:
            return [await mailbox.get(lambda: False) for _ in range(100)]

        return asyncio.run(take())

    with ThreadPoolExecutor(5) as pool:
        readers = [pool.submit(read) for _ in range(4)]
        pool.submit(lambda: [mailbox.put(n, 0) for n in range(400)])
        taken = [n for reader in readers for n in reader.result()]
    assert sorted(taken) == list(range(400))
