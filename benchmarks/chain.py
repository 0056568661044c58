"""Bench (b): what the chain costs over bare Dramatiq.

The chain is the product's: three worker children (render, encode, light) under a supervisor, stages that do nothing
but write one small file, RabbitMQ and S3. The baseline is five no-op Dramatiq actors in as many processes with as many
threads, on queues of the same type with publisher confirms, each of which writes to the same store, by the bare S3
client, as many objects as the chain writes in that stage. Both are measured in turns in this run, from submission to
the message that says that the job is done.

    python -m benchmarks.chain [--jobs N] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.context import SpawnProcess
from pathlib import Path
from uuid import uuid4

import dramatiq
import pika
import urllib3
from minio import Minio

from config import settings as configuration
from config.catalogue import Catalogue
from config.settings import Settings
from pipeline.broker import declare, open_broker
from pipeline.dispatch import first_message, send
from pipeline.jobs import Jobs
from pipeline.store.factory import open_store
from pipeline.topology import EVENTS_EXCHANGE, LANES, QueueClass, queue_name
from pipeline.vocabulary import JobRequest, Stage
from pipeline.worker import supervise
from tests.services import Services, free_port
from tests.small_stages import job, silent_functions

MAX_LATENCY_RATIO, MIN_THROUGHPUT_RATIO = 2.0, 0.5
CONCURRENCY = 8
READY_S = 60
BARE_EXCHANGE = "bare.events"
PUTS: Mapping[Stage, int] = {
    Stage.RENDER: 3,
    Stage.ENCODE: 2,
    Stage.THUMBNAILS: 2,
    Stage.METADATA: 2,
    Stage.PUBLISH: 2,
}
"""Objects the chain writes per stage: one blob each and the record (`final` for publish), and the head of the render;
the request comes on top."""
FOLLOWS = {
    Stage.RENDER: (Stage.ENCODE,),
    Stage.ENCODE: (Stage.THUMBNAILS,),
    Stage.THUMBNAILS: (Stage.METADATA,),
    Stage.METADATA: (Stage.PUBLISH,),
    Stage.PUBLISH: (),
}
"""The five bare actors, one after the other: a join would need a server of its own."""


class Bare:
    """The same S3 by the bare client, with connections kept open as the product does."""

    def __init__(self, settings: Settings) -> None:
        store = settings.store
        self._bucket = store.bucket
        self._client = Minio(
            store.endpoint,
            store.access_key.get_secret_value(),
            store.secret_key.get_secret_value(),
            secure=False,
            region=store.region,
            http_client=urllib3.PoolManager(maxsize=16),
        )

    def put(self, key: str) -> None:
        data = b"x" * 700  # about the size of a record
        self._client.put_object(self._bucket, key, io.BytesIO(data), len(data))


def bare_worker(settings: Settings, queue_class: QueueClass, ready: threading.Event, stop: threading.Event) -> None:
    """One process of the baseline."""
    broker, store = open_broker(settings), Bare(settings)
    lanes = [lane for lane in LANES.values() if lane.queue_class is queue_class]
    for lane in lanes:
        declare_bare(broker, store, lane.stage)
    worker = dramatiq.Worker(broker, queues={bare_queue(lane.stage) for lane in lanes}, worker_threads=lanes[0].threads)
    worker.start()
    deadline = time.monotonic() + READY_S
    while not all(c.consumer is not None for c in worker.consumers.values()):
        if time.monotonic() > deadline:
            sys.exit("The bare worker does not become ready.")
        time.sleep(0.01)
    ready.set()
    stop.wait()
    worker.stop(timeout=5000)


def bare_queue(stage: Stage) -> str:
    return f"{LANES[stage].queue}.bare"


def completed(name: str) -> str:
    """Routing key of the message that says that a job is done."""
    return f"job.{name}.completed"


def declare_bare(broker: dramatiq.Broker, store: Bare, stage: Stage) -> None:
    def act(name: str) -> None:
        for n in range(PUTS[stage]):
            store.put(f"bare/{name}/{stage}-{n}")
        for follower in FOLLOWS[stage]:
            broker.enqueue(bare_message(follower, name))
        if stage is Stage.PUBLISH:
            broker.channel.basic_publish(BARE_EXCHANGE, completed(name), b"")

    dramatiq.actor(actor_name=f"bare-{stage}", queue_name=bare_queue(stage), broker=broker)(act)


def bare_message(stage: Stage, name: str) -> dramatiq.Message[None]:
    return dramatiq.Message(
        queue_name=bare_queue(stage), actor_name=f"bare-{stage}", args=(name,), kwargs={}, options={}
    )


def chain_worker(settings: Settings) -> None:
    """The product's worker."""
    catalogue = Catalogue.load()
    queues = [queue_name(stage, "tiny") for stage in Stage]
    sys.exit(supervise(settings, catalogue, queues, silent_functions))


class Completed:
    """Knows which jobs are done: by one message each, with the key `job.<name>.completed`.

    The other events of the chain go to the projector's queue, where they stay: reading them is the gateway's work. A
    job may say so twice (both neighbours may have sent its publish), so names are kept, not counts.
    """

    def __init__(self, url: str, exchange: str) -> None:
        self._names: set[str] = set()
        self._changed = threading.Condition()
        channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
        channel.exchange_declare(exchange, "topic", durable=True)
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, exchange, completed("*"))
        channel.basic_consume(queue, self._note, auto_ack=True)
        threading.Thread(target=channel.start_consuming, daemon=True).start()

    def _note(self, channel: object, method: pika.spec.Basic.Deliver, properties: object, body: bytes) -> None:
        with self._changed:
            self._names.add(method.routing_key.split(".")[1])
            self._changed.notify_all()

    def wait_for(self, name: str) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: name in self._names, timeout=120):
                sys.exit(f"{name} stands still.")


class ChainSide:
    """Submits jobs to the product's chain."""

    def __init__(self, settings: Settings) -> None:
        self._broker, self._jobs = open_broker(settings), Jobs(open_store(settings))
        self.done = Completed(settings.broker.url.get_secret_value(), EVENTS_EXCHANGE)

    def submit(self) -> str:
        request: JobRequest = job(quality="720p", steps=1)
        self._jobs.accept(request)
        send(self._broker, first_message(request), "tiny")
        return request.job_id


class BareSide:
    """Submits jobs to the bare actors."""

    def __init__(self, settings: Settings) -> None:
        self._broker, self._store = open_broker(settings), Bare(settings)
        declare(self._broker, [bare_queue(stage) for stage in Stage])
        self.done = Completed(settings.broker.url.get_secret_value(), BARE_EXCHANGE)

    def submit(self) -> str:
        name = uuid4().hex
        self._store.put(f"bare/{name}/request.json")
        self._broker.enqueue(bare_message(Stage.RENDER, name))
        return name


Side = ChainSide | BareSide


def latency_s(side: Side, jobs: int) -> float:
    """Median time of a job that is alone."""
    times = []
    for _ in range(jobs):
        started = time.perf_counter()
        side.done.wait_for(side.submit())
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def throughput(side: Side, jobs: int) -> float:
    """Jobs per second with CONCURRENCY of them under way."""

    def one(_: int) -> None:
        side.done.wait_for(side.submit())

    started = time.perf_counter()
    with ThreadPoolExecutor(CONCURRENCY) as clients:
        list(clients.map(one, range(jobs)))
    return jobs / (time.perf_counter() - started)


@contextmanager
def workers(settings: Settings) -> Iterator[None]:
    """Both sides' worker processes."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    chain = context.Process(target=chain_worker, args=(settings,))
    readies = [context.Event() for _ in QueueClass]
    bare = [
        context.Process(target=bare_worker, args=(settings, queue_class, ready, stop))
        for queue_class, ready in zip(QueueClass, readies, strict=True)
    ]
    for process in (chain, *bare):
        process.start()
    try:
        for ready in readies:
            ready.wait(READY_S)
        wait_ready(settings)
        yield
    finally:
        stop.set()
        chain.terminate()
        for process in (chain, *bare):
            end(process)


def wait_ready(settings: Settings) -> None:
    """Wait until the product's worker consumes all its queues."""
    url = f"http://{settings.worker.metrics_host}:{settings.worker.metrics_port}/readyz"
    for _ in range(READY_S * 10):
        try:
            if urllib3.request("GET", url, retries=False).status == 200:
                return
        except urllib3.exceptions.HTTPError:
            pass
        time.sleep(0.1)
    sys.exit("The worker does not become ready.")


def end(process: SpawnProcess) -> None:
    process.join(20)
    if process.is_alive():
        process.kill()


def measure(settings: Settings, jobs: int, rounds: int) -> dict[str, float]:
    """Figures of both sides, each the median over rounds in which the sides took turns, as are the ratios."""
    sides: dict[str, Side] = {"bare": BareSide(settings), "chain": ChainSide(settings)}
    figures: dict[str, list[float]] = {}
    for side in sides.values():  # connections, imports, queues
        throughput(side, CONCURRENCY)
    for _ in range(rounds):
        latency = {name: latency_s(side, jobs) for name, side in sides.items()}
        rate = {name: throughput(side, 4 * jobs) for name, side in sides.items()}
        for name in sides:
            figures.setdefault(f"{name}_latency_s", []).append(latency[name])
            figures.setdefault(f"{name}_jobs_per_s", []).append(rate[name])
        figures.setdefault("latency_ratio", []).append(latency["chain"] / latency["bare"])
        figures.setdefault("throughput_ratio", []).append(rate["chain"] / rate["bare"])
    return {name: statistics.median(values) for name, values in figures.items()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=20, help="jobs per round and side (four times as many at 8)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    options = parser.parse_args(arguments)
    with Services() as services, tempfile.TemporaryDirectory() as folder:
        settings = configuration.load(
            data_dir=Path(folder),
            broker={"url": services.rabbitmq.url},
            store={
                "kind": "s3", "endpoint": services.s3.endpoint, "secure": False, "bucket": services.s3.create_bucket(),
                "access_key": services.s3.access_key, "secret_key": services.s3.secret_key,
            },
            worker={"metrics_port": free_port()},
            log={"level": "WARNING"},
        )  # fmt: skip
        with workers(settings):
            found = measure(settings, options.jobs, options.rounds)
    for name, value in found.items():
        print(f"{name:20} {value:8.4f}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    good = found["latency_ratio"] <= MAX_LATENCY_RATIO and found["throughput_ratio"] >= MIN_THROUGHPUT_RATIO
    print(f"latency ≤ {MAX_LATENCY_RATIO}×, throughput ≥ {MIN_THROUGHPUT_RATIO}×: {'held' if good else 'MISSED'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
