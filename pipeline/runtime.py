"""What a process needs to run the stages of one queue class: its Dramatiq worker and its sign of life."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import dramatiq
import psutil
import structlog
from dramatiq.broker import Broker

from config.errors import ConfigError
from config.settings import Settings
from pipeline import scratch
from pipeline.actors import lane_of
from pipeline.bus.base import EventPublisher
from pipeline.cancellation import Stops
from pipeline.dispatch import send
from pipeline.gpu import gpu_state
from pipeline.hold import Rules
from pipeline.jobs import Jobs
from pipeline.runner import Runner, Watch, unwatched
from pipeline.steps import Functions
from pipeline.store.base import ObjectStore
from pipeline.topology import LANES, QueueClass, all_queues
from pipeline.vocabulary import Heartbeat, now

log = structlog.get_logger(__name__)

FINISH_SHARE, LEAVE_SHARE = 0.5, 0.8
"""Shares of the grace period: until the first running work may finish, until the second renders must have left their
checkpoint. What runs on after that is ended with the process, and noted to be without blame."""


def by_class(queues: Sequence[str], models: Sequence[str]) -> dict[QueueClass, tuple[str, ...]]:
    """Queues grouped by the child process they share.

    Raises:
        ConfigError: a queue has no stage, or its model is not in the catalogue; lists those there are.
    """
    known = all_queues(models)
    unknown = sorted(set(queues) - set(known))
    if unknown or not queues:
        raise ConfigError(
            f"Unknown queues: {', '.join(unknown) or 'none named'}.", remedy=f"Known: {', '.join(known)}."
        )
    groups: dict[QueueClass, tuple[str, ...]] = {}
    for queue in dict.fromkeys(queues):
        queue_class = lane_of(queue).queue_class
        groups[queue_class] = (*groups.get(queue_class, ()), queue)
    return groups


def make_runner(
    settings: Settings,
    store: ObjectStore,
    publisher: EventPublisher,
    broker: Broker,
    functions: Functions,
    stops: Stops,
    watch: Watch = unwatched,
) -> Runner:
    """A runner wired to this process's store, bus and broker."""
    scratch.sweep(scratch_folder(settings))
    worker = settings.worker
    return Runner(
        Jobs(store),
        publisher,
        lambda message, model: send(broker, message, model),
        functions,
        scratch_folder(settings),
        stops,
        watch,
        worker_id(),
        Rules(worker.checkpoint_s, worker.checkpoint_steps, worker.lease_s),
    )


@cache
def worker_id() -> str:
    """Name of this process among all workers; a container that starts again has the same host name and process ids."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def scratch_folder(settings: Settings) -> Path:
    """Where runs keep their working files."""
    return settings.data_dir.absolute() / "scratch"


class Crew:
    """The Dramatiq worker of one queue class, and its heartbeat.

    Args:
        queues: of one class; their actors are declared on `broker` (see `pipeline.actors.declare`).
        interval_s: of the heartbeat.
        poll_s: longest wait of an idle thread before it looks whether it should stop.
    """

    def __init__(
        self,
        broker: Broker,
        queue_class: QueueClass,
        queues: Sequence[str],
        publisher: EventPublisher,
        stops: Stops,
        interval_s: float,
        poll_s: float = 1.0,
    ) -> None:
        self.queues, self._stops, self._interval_s = tuple(queues), stops, interval_s
        self._publisher = publisher
        self.worker_id = f"{worker_id()}-{queue_class}"
        threads = threads_of(queue_class)
        self._worker = dramatiq.Worker(
            broker, queues=set(queues), worker_threads=threads, worker_timeout=round(poll_s * 1000)
        )
        self._stopping = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._process = psutil.Process()

    def start(self) -> None:
        """Begin to consume."""
        self._process.cpu_percent()  # the first call only sets the mark
        self._worker.start()
        self._heart.start()

    def stop(self, grace_s: float) -> None:
        """Take no more work, and end all threads within `grace_s`: renders leave a checkpoint at the end of their step,
        other work may finish for half of that time; what is left is handed back."""
        self._stopping.set()
        self._stops.drain(FINISH_SHARE * grace_s, LEAVE_SHARE * grace_s)
        self._worker.stop(timeout=round(grace_s * 1000))
        self._heart.join(timeout=grace_s)

    @property
    def ready(self) -> bool:
        """Every queue has a consumer that is connected."""
        consumers = self._worker.consumers.values()
        return bool(consumers) and all(c.is_alive() and c.consumer is not None for c in consumers)

    def _beat(self) -> None:
        while not self._stopping.wait(self._interval_s):
            self._say(stopping=False)
        self._say(stopping=True)

    def _say(self, stopping: bool) -> None:
        try:
            self._publisher.publish(self._heartbeat(stopping))
        except Exception as error:  # noqa: BLE001 - the next one may be told
            log.warning("heartbeat not published", error=str(error))

    def _heartbeat(self, stopping: bool) -> Heartbeat:
        return Heartbeat(
            worker_id=self.worker_id,
            host=socket.gethostname(),
            queues=self.queues,
            job_ids=self._stops.job_ids,
            at=now(),
            cpu=round(self._process.cpu_percent() / 100, 3),
            memory_bytes=self._process.memory_info().rss,
            gpu=gpu_state(),
            stopping=stopping,
        )


def threads_of(queue_class: QueueClass) -> int:
    """Worker threads of a class's child process."""
    return max(lane.threads for lane in LANES.values() if lane.queue_class is queue_class)
