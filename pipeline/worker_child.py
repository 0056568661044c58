"""A worker's child process: the actors of one queue class, on RabbitMQ, until SIGTERM or the supervisor's death."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, MutableSequence
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from config.catalogue import Catalogue
from config.errors import T2MError
from config.settings import Settings
from pipeline import heap, logging
from pipeline.actors import declare
from pipeline.broker import open_broker
from pipeline.bus.factory import open_publisher
from pipeline.cancellation import Stops
from pipeline.runtime import LEAVE_SHARE, Crew, make_runner
from pipeline.steps import Functions
from pipeline.store.factory import open_store
from pipeline.topology import QueueClass

LOOK_S = 0.5
"""How often the child looks whether it should stop, and tells whether it is ready."""

UNFIT = 3
"""Exit code of a child that should not be restarted."""

MakeFunctions = Callable[[Settings, Catalogue], Functions]

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Duty:
    """What a child has to do. Pickled to it, so `make_functions` must be importable by name."""

    settings: Settings
    catalogue: Catalogue
    queue_class: QueueClass
    queues: tuple[str, ...]
    make_functions: MakeFunctions


class Marks:
    """One slot of shared memory per worker thread: 0.0 while idle, else the time its run last moved.

    Times are of CLOCK_MONOTONIC, which is the same for all processes of a machine; so the supervisor sees a hang even
    when the child as a whole stands still (C code that keeps the interpreter lock).
    """

    def __init__(self, slots: MutableSequence[float]) -> None:
        self._slots = slots
        self._free = list(range(len(slots)))
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self) -> Iterator[Callable[[], None]]:
        """A `runner.Watch`."""
        with self._lock:
            slot = self._free.pop()

        def alive() -> None:
            self._slots[slot] = time.monotonic()

        alive()
        try:
            yield alive
        finally:
            self._slots[slot] = 0.0
            with self._lock:
                self._free.append(slot)


def run(duty: Duty, slots: MutableSequence[float], ready: threading.Event) -> None:
    """Body of the child process; exits 0 after an orderly stop, 1 when it cannot start, `UNFIT` when it should end.

    Args:
        slots: shared with the supervisor, one per worker thread.
        ready: shared; set while all queues are being consumed.
    """
    os.setpgid(0, 0)  # a group of its own: the supervisor can kill it together with its ffmpeg
    heap.share_heap()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.configure(duty.settings.log, logging.secrets_of(duty.settings))
    structlog.contextvars.bind_contextvars(queue_class=str(duty.queue_class))
    try:
        code = _serve(duty, Marks(slots), ready, stop)
    except T2MError as error:
        log.error("worker child ended", error=str(error))
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a step that is still in the GPU must not keep the process


def _serve(duty: Duty, marks: Marks, ready: threading.Event, stop: threading.Event) -> int:
    settings, stops = duty.settings, Stops()
    store, broker, publisher = open_store(settings), open_broker(settings), open_publisher(settings)
    functions = duty.make_functions(settings, duty.catalogue)
    runner = make_runner(settings, store, publisher, broker, functions, stops, marks)
    declare(broker, runner, duty.queues)
    crew = Crew(broker, duty.queue_class, duty.queues, publisher, stops, settings.worker.heartbeat_s)
    gc.freeze()  # what is loaded by now stays: collections need not walk it again and again
    crew.start()
    log.info("worker child started", queues=duty.queues)
    supervisor = multiprocessing.parent_process()
    while not stop.wait(LOOK_S) and not runner.unfit and (supervisor is None or supervisor.is_alive()):
        ready.set() if crew.ready else ready.clear()
        heap.trim()
    ready.clear()
    sparing = threading.Timer(LEAVE_SHARE * settings.worker.grace_s, runner.spare)
    sparing.daemon = True
    sparing.start()
    crew.stop(settings.worker.grace_s)
    sparing.cancel()
    publisher.close()
    broker.close()
    if runner.unfit:
        log.error("worker takes itself out", reason=runner.unfit)
        return UNFIT
    log.info("worker child stopped")
    return 0
