"""The worker: a supervisor with one child process per queue class.

Each child shares a few bytes of memory with the supervisor: per worker thread the time its run last moved, that is,
called `report` or `cancellation.check`. A run that does not move for `worker.hang_s` is hung; its child is killed with
all it started, RabbitMQ delivers the message again, and a new child takes its place. A child that dies is restarted,
after a wait that grows while it dies young.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from multiprocessing.context import SpawnProcess
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Counter, multiprocess

from config.catalogue import Catalogue
from config.errors import ConfigError
from config.settings import Settings
from pipeline import logging, notice, steps, worker_child
from pipeline.broker import declare, open_broker
from pipeline.runtime import by_class, threads_of
from pipeline.store.factory import open_store
from pipeline.topology import QueueClass
from pipeline.worker_child import Duty, MakeFunctions
from pipeline.worker_http import serve

TICK_S = 0.5
"""Between two looks at the children."""
RESTART_FIRST_S, RESTART_LONGEST_S = 1.0, 30.0
"""Wait before a dead child is restarted; doubled each time it dies young."""
SETTLED_S = 60.0
"""A child that lived this long did not die of its start."""

log = structlog.get_logger(__name__)


def supervise(
    settings: Settings, catalogue: Catalogue, queues: Sequence[str], make_functions: MakeFunctions = steps.functions
) -> int:
    """Run stages from `queues` until SIGTERM, SIGINT or a notice of the cloud; returns the exit code.

    It is 0 after an orderly stop, 1 when a child found itself unfit.

    To be called in the main thread, as it handles the signals.

    Args:
        make_functions: what the stages do; called in the children, so importable by name.

    Raises:
        ConfigError: an unknown queue, or the settings are those of the embedded shape.
        StoreUnfit, StoreError, BrokerError: the store or the broker cannot carry jobs.
    """
    logging.configure(settings.log, logging.secrets_of(settings))
    groups = by_class(queues, catalogue.names)
    check(settings, queues)
    folder = Path(tempfile.mkdtemp(prefix="t2m-metrics-"))
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)  # read by prometheus-client in the children
    try:
        duties = [Duty(settings, catalogue, group, names, make_functions) for group, names in groups.items()]
        return Supervisor(settings, duties, folder).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check(settings: Settings, queues: Iterable[str]) -> None:
    """Check that store and broker can carry jobs, and declare the queues. Raises as `supervise`."""
    if settings.embedded:
        raise ConfigError(
            "A worker needs a broker that other processes can reach.",
            remedy="Set `broker.url` (T2M_BROKER__URL) to an amqp:// URL, or use `t2m serve`.",
        )
    open_store(settings).probe()
    broker = open_broker(settings)
    declare(broker, queues)
    broker.close()


class Supervisor:
    """Starts, watches, restarts and stops the children, and serves their metrics.

    Args:
        metrics_folder: where the children's metric files are.
    """

    def __init__(self, settings: Settings, duties: Sequence[Duty], metrics_folder: Path) -> None:
        self._settings = settings.worker
        self._stop = threading.Event()
        self._ticked_at = time.monotonic()
        self.registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(self.registry, path=str(metrics_folder))  # type: ignore[no-untyped-call]
        restarts = Counter(
            "t2m_worker_restarts_total",
            "Children that were restarted, and why.",
            ("queue_class", "reason"),
            registry=self.registry,
        )
        self._children = [Child(duty, metrics_folder, restarts) for duty in duties]

    def run(self) -> int:
        """Until SIGTERM, SIGINT, a notice, or a child that is unfit; returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        if self._settings.notice_url:
            notice.watch(self._settings.notice_url, self._stop.set)
        http = serve(self._settings.metrics_host, self._settings.metrics_port, self)
        log.info("worker started", metrics_port=http.server_port, children=len(self._children))
        try:
            for child in self._children:
                child.start()
            while not self._stop.wait(TICK_S):
                self._tick()
        finally:
            self._end()
            http.shutdown()
        unfit = any(child.unfit for child in self._children)
        log.info("worker stopped", unfit=unfit)
        return 1 if unfit else 0

    @property
    def healthy(self) -> bool:
        """The supervisor itself moves."""
        return time.monotonic() - self._ticked_at < 20 * TICK_S

    @property
    def ready(self) -> bool:
        """All children consume all their queues."""
        return not self._stop.is_set() and all(child.ready for child in self._children)

    def _tick(self) -> None:
        self._ticked_at = time.monotonic()
        for child in self._children:
            child.tick(self._settings.hang_s)
            if child.unfit:
                self._stop.set()

    def _end(self) -> None:
        """Ask all children to stop; kill those that do not within the grace period."""
        deadline = time.monotonic() + self._settings.grace_s
        for child in self._children:
            child.ask_to_stop()
        for child in self._children:
            child.wait(deadline - time.monotonic())


class Child:
    """The supervisor's side of one child process."""

    def __init__(self, duty: Duty, metrics_folder: Path, restarts: Counter) -> None:
        self._duty, self._metrics_folder, self._restarts = duty, metrics_folder, restarts
        self._context = multiprocessing.get_context("spawn")
        self._log = log.bind(queue_class=str(duty.queue_class))
        self._process: SpawnProcess | None = None
        self._wait_s = RESTART_FIRST_S
        self._started_at = self._start_at = 0.0
        self._why = ""
        self.unfit = False
        """It ended because jobs failed there one after another."""

    @property
    def queue_class(self) -> QueueClass:
        """What it runs."""
        return self._duty.queue_class

    @property
    def ready(self) -> bool:
        """It consumes all its queues."""
        return self._process is not None and self._process.is_alive() and self._ready.is_set()

    def start(self) -> None:
        """Start the process with fresh shared memory: what a killed one held locked is gone with it."""
        self._slots = self._context.RawArray(ctypes.c_double, threads_of(self.queue_class))
        self._ready = self._context.Event()
        self._process = self._context.Process(
            target=worker_child.run, args=(self._duty, self._slots, self._ready), name=f"t2m-{self.queue_class}"
        )
        self._process.start()
        self._started_at = time.monotonic()

    def tick(self, hang_s: float) -> None:
        """Kill it if it hangs, restart it if it is dead and its wait is over."""
        now, process = time.monotonic(), self._process
        if process is None:
            if now >= self._start_at:
                self._restarts.labels(self.queue_class, self._why).inc()
                self.start()
        elif not process.is_alive():
            self.unfit = process.exitcode == worker_child.UNFIT
            self._bury(process, "crash", now)
        elif any(mark and now - mark > hang_s for mark in self._slots):
            self._log.error("child hangs and is killed", hang_s=hang_s)
            _kill(process)
            self._bury(process, "hang", now)

    def ask_to_stop(self) -> None:
        """SIGTERM."""
        if self._process is not None:
            self._process.terminate()

    def wait(self, timeout_s: float) -> None:
        """Wait for its end; kill it after `timeout_s`."""
        if self._process is not None:
            self._process.join(max(0.0, timeout_s))
            _kill(self._process)

    def _bury(self, process: SpawnProcess, why: str, now: float) -> None:
        """Note the death, and when to restart."""
        lived_s = now - self._started_at
        if lived_s > SETTLED_S:
            self._wait_s = RESTART_FIRST_S
        self._log.error("child ended", exit_code=process.exitcode, lived_s=round(lived_s), restart_in_s=self._wait_s)
        multiprocess.mark_process_dead(process.pid, path=str(self._metrics_folder))  # type: ignore[no-untyped-call]
        self._why, self._start_at, self._process = why, now + self._wait_s, None
        self._wait_s = min(2 * self._wait_s, RESTART_LONGEST_S)


def _kill(process: SpawnProcess) -> None:
    """SIGKILL to a child and to whatever it started."""
    if process.pid is not None:
        with suppress(ProcessLookupError):  # it may have ended, or not yet have become a group
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
