"""Sees to it that no job is forgotten: those that were lost on their way, and those whose messages died."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta

import dramatiq
import structlog

from config.catalogue import Catalogue
from config.settings import Settings
from gateway.database import jobs, workers
from gateway.database.engine import Database
from gateway.database.jobs import Lost
from gateway.dispatcher import alive
from gateway.ledger import Ledger
from gateway.metrics import Metrics
from gateway.verdicts import readable
from pipeline.broker import RabbitBroker
from pipeline.dead_letters import DeadLetters, collect
from pipeline.jobs import Jobs
from pipeline.topology import all_queues
from pipeline.vocabulary import Failure, Final, Stage, Status, now

log = structlog.get_logger(__name__)

EVERY_S = 30.0
LEASES = 3
"""Leases of silence after which a job that nobody holds was lost; where renderers live it waits for two at most, its
own and that of the job before. Twice as many each time it was sent: then a long queue is the likelier reason."""
MOST_EPOCHS = 5
"""How often a job is sent at most."""
AT_ONCE = 100


class Rescue:
    """Looks for jobs of which nobody speaks any more, and empties the broker's dead-letter queues.

    A lost job is let wait again, so that the dispatcher sends it once more, one epoch later; whatever is left of its
    former message is then out of date.
    """

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        database: Database,
        broker: dramatiq.Broker,
        store: Jobs,
        ledger: Ledger,
        metrics: Metrics,
        wake: asyncio.Event,
    ) -> None:
        self._settings, self._catalogue, self._database, self._broker = settings, catalogue, database, broker
        self._store, self._ledger, self._metrics, self._wake = store, ledger, metrics, wake
        self._letters = DeadLetters(store.store)
        self._thread = ThreadPoolExecutor(1, "rescue")  # a connection belongs to its thread
        for queue in all_queues(catalogue.names):
            metrics.dead_letters.labels(queue)  # from 0 on, or Prometheus would not see the first as an increase

    async def run(self) -> None:
        """Look every half minute, until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.send_again()
            await self.bury()

    async def send_again(self) -> int:
        """Let jobs wait again whose workers fell silent, and end those for which that was done too often.

        Only where workers live for all that may be left to do: without, a job's message just waits. Returns how many.
        """
        async with self._database.read() as connection:
            beats = await workers.beats(connection, now() - alive(self._settings))
            consumed = {queue for beat in beats if not beat.stopping for queue in beat.queues}
            models = [name for name in self._catalogue.names if consumed.issuperset(all_queues([name]))]
            held = {job_id for beat in beats for job_id in beat.job_ids}
            silent = await jobs.lost(connection, self._quiet(epoch=1), models, AT_ONCE)
        lost = [job for job in silent if job.id not in held and job.heard_at < self._quiet(job.epoch)]
        hopeless = [job for job in lost if job.epoch >= MOST_EPOCHS]
        again = [job.id for job in lost if job.epoch < MOST_EPOCHS]
        async with self._database.write() as connection:
            await jobs.send_again(connection, again)
        finals = [await asyncio.to_thread(readable, self._store.decide, _given_up(job)) for job in hopeless]
        await self._enter(finals)
        if again:
            log.warning("jobs of silent workers are sent again", job_ids=again)
            self._metrics.rescued.inc(len(again))
            self._wake.set()
        return len(lost)

    def _quiet(self, epoch: int) -> datetime:
        """Since when a job must have been silent that was sent so often: twice as long each time."""
        silence: timedelta = LEASES * (1 << (min(epoch, MOST_EPOCHS) - 1)) * self._settings.worker.lease
        return now() - silence

    async def bury(self) -> int:
        """Keep what died in the broker, and end the jobs whose messages did. Returns how many letters there were."""
        if not isinstance(self._broker, RabbitBroker):
            return 0
        finals = await asyncio.get_running_loop().run_in_executor(self._thread, self._collect, self._broker)
        await self._enter(finals)
        await asyncio.to_thread(self._letters.expire, now())
        return len(finals)

    async def _enter(self, finals: Iterable[Final | None]) -> None:
        await self._ledger.enter([], {final.job_id: final for final in finals if final is not None})

    def _collect(self, broker: RabbitBroker) -> list[Final | None]:
        finals: list[Final | None] = []
        for queue in all_queues(self._catalogue.names):
            with closing(collect(broker, queue, self._letters)) as letters:
                for letter in letters:
                    message = letter.message
                    self._metrics.dead_letters.labels(queue).inc()
                    log.error("message died", letter=letter.id, queue=queue, reason=letter.reason)
                    verdict = readable(self._store.decide, letter.verdict(message)) if message else None
                    finals.append(verdict)
        return finals


def _given_up(job: Lost) -> Final:
    failure = Failure(
        stage=job.stage or Stage.RENDER,
        code="WorkerLost",
        message=f"The job was sent {job.epoch} times and nothing came back.",
        remedy="See the workers' logs for crashes, hangs and kills for memory.",
    )
    return Final(job_id=job.id, status=Status.FAILED, at=now(), failure=failure)
