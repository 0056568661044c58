"""Turns the events of workers into what clients see."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime, timedelta

import structlog
from sqlalchemy.exc import DBAPIError

from gateway.database import jobs
from gateway.database.engine import Database, refuses
from gateway.ledger import VERDICTS, Ledger
from gateway.metrics import Metrics
from gateway.verdicts import readable
from pipeline.bus.base import Ack, EventSubscriber, Item
from pipeline.jobs import Jobs
from pipeline.vocabulary import Event, EventKind, Final, Heartbeat, now

log = structlog.get_logger(__name__)

BATCH = 200
"""Events of one transaction at most; what arrives meanwhile makes the next batch."""
FREEING = {*VERDICTS.values(), EventKind.FINISHED}
"""Events after which a renderer may be free."""
REPAIR_EVERY_S = 30.0
SILENT = timedelta(seconds=60)
"""A job of which nothing was heard for this long may have a verdict that nobody told: a worker died after deciding."""
REPAIR_LIMIT = 50
"""Silent jobs looked up per round; one read of the store each."""


class Projector:
    """Stores each event once, numbered per job, together with what it changes; acknowledges after the commit.

    Args:
        subscribe: opens the durable subscription; opened anew after a failure, so that unacknowledged events return.
        wake: tells the dispatcher that places became free.
        pictures: whether clients may see frames before the video is done.
    """

    def __init__(
        self,
        database: Database,
        store: Jobs,
        subscribe: Callable[[], EventSubscriber],
        ledger: Ledger,
        metrics: Metrics,
        wake: asyncio.Event,
        *,
        pictures: bool = True,
    ) -> None:
        self._database, self._store, self._subscribe = database, store, subscribe
        self._ledger, self._metrics, self._wake = ledger, metrics, wake
        self._hidden = set() if pictures else {EventKind.PREVIEW}

    async def run(self) -> None:
        """Project until cancelled."""
        subscriber = self._subscribe()
        try:
            await subscriber.start()
            async for batch in _batches(subscriber.events()):
                await self.project([item for item, _ in batch])
                for _, ack in batch:
                    await ack()
        finally:
            await subscriber.close()

    async def repair(self) -> None:
        """Find verdicts that no event told of, until cancelled."""
        while True:
            await asyncio.sleep(REPAIR_EVERY_S)
            await self.repair_once(now() - SILENT)

    async def repair_once(self, since: datetime) -> int:
        """Look up verdicts of jobs silent since then, finish cancellations begun before it; returns how many ended."""
        async with self._database.read() as connection:
            silent = await jobs.silent(connection, since, REPAIR_LIMIT)
            half_cancelled = await jobs.half_cancelled(connection, since, REPAIR_LIMIT)
        finals = await self._finals(silent)
        for job_id, user_id in half_cancelled:
            final = await asyncio.to_thread(readable, self._store.cancel, job_id, user_id)
            if final is not None:
                finals[job_id] = final
        async with self._database.write() as connection:
            await jobs.touch(connection, silent)
        await self._ledger.enter([], finals)
        self._metrics.repaired.inc(len(finals))
        return len(finals)

    async def project(self, items: Sequence[Item]) -> None:
        """Store these in one transaction; where the database refuses one of them, in one each, without that one."""
        try:
            await self._store_all(items)
        except (DBAPIError, OverflowError) as error:
            if not refuses(error):
                raise
            if len(items) == 1:
                self._metrics.events.labels("refused").inc()
                log.error("event refused by the database", item=items[0].model_dump_json(), error=repr(error))
                return
            for item in items:
                await self.project([item])

    async def _store_all(self, items: Sequence[Item]) -> None:
        told = [item for item in items if isinstance(item, Event) and item.kind not in self._hidden]
        beats = {item.worker_id: item for item in items if isinstance(item, Heartbeat)}
        finals = await self._finals({event.job_id for event in told if event.kind in VERDICTS.values()})
        await self._ledger.enter(told, finals, [beats[worker_id] for worker_id in sorted(beats)])
        for event in told:
            self._metrics.lag.observe(max((now() - event.at).total_seconds(), 0))
        if any(event.kind in FREEING for event in told):
            self._wake.set()

    async def _finals(self, job_ids: Iterable[str]) -> dict[str, Final]:
        """The verdicts in the store, which alone count."""
        found = [await asyncio.to_thread(readable, self._store.final, job_id) for job_id in sorted(job_ids)]
        return {final.job_id: final for final in found if final is not None}


async def _batches(source: AsyncIterator[tuple[Item, Ack]]) -> AsyncIterator[list[tuple[Item, Ack]]]:
    """What has arrived, without waiting for more, but at least one item and at most `BATCH`."""
    upcoming = asyncio.ensure_future(anext(source))
    try:
        while True:
            await asyncio.wait({upcoming})
            batch: list[tuple[Item, Ack]] = []
            while upcoming.done() and len(batch) < BATCH:
                if isinstance(upcoming.exception(), StopAsyncIteration):
                    if batch:
                        yield batch
                    return
                batch.append(upcoming.result())
                upcoming = asyncio.ensure_future(anext(source))
                await asyncio.sleep(0)  # one turn of the loop is enough for an item that is there
            yield batch
    finally:
        upcoming.cancel()
