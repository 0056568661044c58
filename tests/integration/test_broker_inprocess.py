"""The in-process broker in a long life: nothing it has done with stays in memory."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref

import dramatiq

from pipeline import broker as broker_module
from pipeline.broker import InProcessBroker, declare


class Tensor:
    """Stands for what a failed actor's frames hold."""


def run(broker: InProcessBroker, work: dramatiq.Actor, messages: int) -> None:
    worker = dramatiq.Worker(broker, worker_threads=2, worker_timeout=20)
    worker.start()
    try:
        for n in range(messages):
            work.send(n)
        give_up = time.monotonic() + 20
        while done.qsize() < messages:
            assert time.monotonic() < give_up
            time.sleep(0.01)
    finally:
        worker.stop(timeout=5000)


done: broker_module.SimpleQueue[int]


def test_failures_hold_no_memory(monkeypatch, caplog):
    global done
    caplog.set_level(logging.CRITICAL, logger="dramatiq")  # log records hold tracebacks, and pytest keeps them
    done = broker_module.SimpleQueue()
    monkeypatch.setattr(broker_module, "DEAD_LETTERS_KEPT", 5)
    broker, held = InProcessBroker(), []

    def fail(n: int) -> None:
        tensor = Tensor()
        held.append(weakref.ref(tensor))
        done.put(n)
        raise RuntimeError(tensor)

    run(broker, dramatiq.actor(fail, broker=broker, queue_name="encode", max_retries=0), 20)
    gc.collect()
    assert [ref() for ref in held] == [None] * 20
    assert len(broker.dead_letters) == 5


def test_successes_hold_no_memory():
    global done
    done = broker_module.SimpleQueue()
    broker = InProcessBroker()
    run(broker, dramatiq.actor(done.put, broker=broker, actor_name="work", queue_name="encode"), 50)
    assert {name: queue.qsize() for name, queue in broker.queues.items()} == {"encode": 0, "encode.DQ": 0}


def test_workers_of_several_queue_classes_share_one_broker():
    """As embedded T2M runs: a busy render holds back no encode."""
    broker, rendering, release, encoded = InProcessBroker(), threading.Event(), threading.Event(), threading.Event()

    def render() -> None:
        rendering.set()
        release.wait(120)

    render_actor = dramatiq.actor(render, broker=broker, queue_name="render.tiny")
    encode_actor = dramatiq.actor(encoded.set, broker=broker, actor_name="encode", queue_name="encode")
    workers = [
        dramatiq.Worker(broker, queues={name}, worker_threads=1, worker_timeout=20)
        for name in ("render.tiny", "encode")
    ]
    for worker in workers:
        worker.start()
    try:
        render_actor.send()
        assert rendering.wait(60)
        render_actor.send()
        encode_actor.send()
        assert encoded.wait(60)
    finally:
        release.set()
        for worker in workers:
            worker.stop(timeout=5000)


def test_declaring_at_once_from_many_threads_loses_no_message():
    for _ in range(50):
        broker, barrier = InProcessBroker(), threading.Barrier(8)

        def send(broker: InProcessBroker = broker, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            broker.enqueue(dramatiq.Message(queue_name="encode", actor_name="x", args=(), kwargs={}, options={}))

        threads = [threading.Thread(target=send) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        declare(broker, ["encode"])
        assert broker.queues["encode"].qsize() == 8
