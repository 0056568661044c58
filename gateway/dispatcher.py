"""Releases waiting jobs to the broker: fairly, and no more than the live renderers of each model can soon take."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta

import dramatiq
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from config.catalogue import Catalogue
from config.settings import Settings
from gateway.database import jobs, workers
from gateway.database.engine import Database
from gateway.database.jobs import Claimed
from gateway.metrics import Metrics
from pipeline.broker import BrokerBlocked
from pipeline.dispatch import first_message, send
from pipeline.errors import BrokerError
from pipeline.vocabulary import now

log = structlog.get_logger(__name__)

LOCK = "dispatch"
POLL_S = 1.0
"""Other gateways accept jobs too, and workers come and go."""
REST_S = 0.2
"""After a pass, so that jobs that come in quick succession share the next one."""
NOTED_TOGETHER = 25
"""Jobs whose sending is noted in one transaction: as many may be sent twice when a dispatcher dies in between."""
BEATS_MISSED = 3
"""A worker that missed so many heartbeats is not counted on."""


class Dispatcher:
    """One pass claims jobs in one transaction, sends them outside of any, and notes what the broker confirmed.

    Claims of several gateways exclude each other, so the limits hold over all of them. A dispatcher that dies between
    the confirmation and the note makes a job be sent twice, which workers answer from its records.

    Args:
        wake: set when there may be something to do.
    """

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        database: Database,
        broker: dramatiq.Broker,
        metrics: Metrics,
        wake: asyncio.Event,
    ) -> None:
        self._settings, self._catalogue, self._database = settings, catalogue, database
        self._broker, self._metrics, self._wake = broker, metrics, wake
        self._thread = ThreadPoolExecutor(1, "dispatcher")  # a connection belongs to its thread

    async def run(self) -> None:
        """Dispatch until cancelled."""
        if self._settings.embedded:
            await self.recall()
        while True:
            self._wake.clear()
            await self.dispatch()
            await asyncio.sleep(REST_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):  # `wait_for` may lose a cancellation that comes with the wake
                    await self._wake.wait()

    async def recall(self) -> None:
        """At the start of an embedded gateway: what was in the broker's memory is sent again."""
        async with self._database.write() as connection:
            count = await jobs.recall(connection)
        if count:
            log.info("unfinished jobs taken up", count=count)

    async def dispatch(self) -> int:
        """One pass; returns how many jobs were sent.

        Raises:
            BrokerError: the jobs of a model could not be sent; those of the others were.
        """
        async with self._database.read() as connection:
            waiting = await jobs.count_waiting(connection)
        sent, failed = 0, None
        for model in waiting:
            try:
                sent += await self._dispatch(model)
            except BrokerBlocked:  # whatever is sent, and each send waits for a minute
                raise
            except BrokerError as error:  # perhaps of this model's queue alone
                log.warning("jobs of a model not sent", model=model, error=str(error))
                failed = error
        if failed is not None:
            raise failed
        return sent

    async def _dispatch(self, model: str) -> int:
        claimed = await self._claim(model)
        sent = 0
        try:
            for start in range(0, len(claimed), NOTED_TOGETHER):
                sent += await self._send(claimed[start : start + NOTED_TOGETHER])
        finally:
            if sent < len(claimed):
                async with self._database.write() as connection:
                    await jobs.release(connection, claimed)
        return sent

    async def _claim(self, model: str) -> list[Claimed]:
        async with self._database.write() as connection:
            await self._database.lock(connection, LOCK)
            busy, capacity = await jobs.count_in_flight(connection), await self._capacity(connection)
            free = capacity[model] - busy.get(model, 0)
            return await jobs.claim(connection, model, free) if free > 0 else []

    async def _capacity(self, connection: AsyncConnection) -> Counter[str]:
        """Jobs per model that may be in flight."""
        each = self._settings.gateway.max_in_flight_per_worker
        if self._settings.embedded:
            return Counter(dict.fromkeys(self._catalogue.names, each))
        consumers = await workers.live(connection, now() - alive(self._settings))
        return Counter({entry.name: each * consumers[entry.queue] for entry in self._catalogue})

    async def _send(self, claimed: Sequence[Claimed]) -> int:
        """Send these, note in one transaction what was confirmed; returns how many. Raises `BrokerError` if not all."""
        loop = asyncio.get_running_loop()
        confirmed, error = await loop.run_in_executor(self._thread, self._send_each, claimed)
        async with self._database.write() as connection:
            await jobs.mark_dispatched(connection, [job.request.job_id for job in confirmed])
        for job in confirmed:
            request = job.request
            self._metrics.sends.labels(request.model, "confirmed").inc()
            log.info("job dispatched", job_id=request.job_id, trace_id=request.trace_id, epoch=job.epoch)
        if error is not None:
            self._metrics.sends.labels(claimed[len(confirmed)].request.model, "failed").inc()
            raise error
        return len(confirmed)

    def _send_each(self, claimed: Sequence[Claimed]) -> tuple[list[Claimed], BrokerError | None]:
        """Those that were sent before the first that could not be, and why not."""
        confirmed: list[Claimed] = []
        for job in claimed:
            try:
                send(self._broker, first_message(job.request, job.epoch), job.request.model)
            except BrokerError as error:
                return confirmed, error
            confirmed.append(job)
        return confirmed, None


def alive(settings: Settings) -> timedelta:
    """How long ago a worker may have been heard of last to count as living."""
    return timedelta(seconds=BEATS_MISSED * settings.worker.heartbeat_s)
