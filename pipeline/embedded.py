"""The whole chain in this process: the same actors on an in-process broker, one Dramatiq worker per queue class."""

from __future__ import annotations

import logging

from config.catalogue import Catalogue
from config.settings import Settings
from pipeline import steps
from pipeline.actors import BACKOFF_S, declare
from pipeline.broker import InProcessBroker
from pipeline.bus.memory import MemoryBus
from pipeline.cancellation import Stops
from pipeline.dispatch import first_message, send
from pipeline.jobs import Jobs
from pipeline.runtime import LEAVE_SHARE, Crew, by_class, make_runner
from pipeline.steps import Functions
from pipeline.store.base import ObjectStore
from pipeline.store.factory import open_store
from pipeline.topology import all_queues
from pipeline.vocabulary import Final, JobRequest

POLL_S = 0.2
"""How soon idle threads see that they should stop."""
GRACE_S = 5.0


class EmbeddedRuntime:
    """Runs jobs in threads of this process; several may follow one another in a process.

    Args:
        store: that of the settings by default.
        bus: where events go; one of its own by default.
        functions: what the stages do; the real ones by default.
        backoff_s: waits before retries.

    Attributes:
        store, bus, broker: for whoever shares them, such as the gateway.
        jobs: reads and writes the jobs of the store.
    """

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        *,
        store: ObjectStore | None = None,
        bus: MemoryBus | None = None,
        functions: Functions | None = None,
        backoff_s: tuple[float, ...] = BACKOFF_S,
    ) -> None:
        self.store = store or open_store(settings)
        self.bus = bus or MemoryBus()
        self.broker = InProcessBroker()
        self.broker.logger.addFilter(_expected)
        self.jobs = Jobs(self.store)
        self._stops = Stops()
        self._runner = runner = make_runner(
            settings, self.store, self.bus, self.broker, functions or steps.functions(settings, catalogue), self._stops
        )
        queues = all_queues(catalogue.names)
        declare(self.broker, runner, queues, backoff_s)
        interval_s = settings.worker.heartbeat_s
        self._crews = [
            Crew(self.broker, queue_class, group, self.bus, self._stops, interval_s, POLL_S)
            for queue_class, group in by_class(queues, catalogue.names).items()
        ]

    def start(self) -> None:
        """Begin to work. Raises `StoreUnfit`, `StoreError` if the store cannot carry jobs."""
        self.store.probe()
        for crew in self._crews:
            crew.start()

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Interrupt what runs and end all threads, in `grace_s` seconds at most; a job sent again goes on."""
        self._stops.drain(leave_s=LEAVE_SHARE * grace_s)
        for crew in self._crews:
            crew.stop(grace_s)
        self._runner.spare()
        self.broker.close()

    def submit(self, request: JobRequest, epoch: int = 1) -> None:
        """Accept a job and send its first message. Raises `AlreadyExists` if its id was used."""
        self.jobs.accept(request)
        send(self.broker, first_message(request, epoch), request.model)

    def cancel(self, job_id: str, by: str) -> Final:
        """Cancel a job and hurry its workers; returns the verdict that stands."""
        final = self.jobs.cancel(job_id, by)
        self._stops.hurry(job_id)
        return final


def _expected(record: logging.LogRecord) -> bool:
    """Dramatiq warns of a second worker on one broker; here there is one per queue class on purpose."""
    return "middleware of the same type twice" not in record.getMessage()
