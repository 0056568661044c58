"""Keeps the logs of jobs that have ended in the store, beside the jobs, so that they outlive the database."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from gateway.database import events, jobs
from gateway.database.engine import Database
from gateway.database.events import Entry
from gateway.sidecars import keep_log
from pipeline import keys
from pipeline.errors import PipelineError
from pipeline.jobs import Jobs
from pipeline.vocabulary import now

log = structlog.get_logger(__name__)

EVERY_S = 10.0
SETTLED = timedelta(seconds=60)
"""What other workers still had to say of a job that has ended has come by then."""
AT_ONCE = 100


class Archive:
    """Writes what the projector has numbered; off everybody's way, and several gateways may do it at the same time."""

    def __init__(self, database: Database, store: Jobs) -> None:
        self._database, self._store = database, store

    async def run(self) -> None:
        """Keep logs until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            while await self.keep(now() - SETTLED) == AT_ONCE:
                continue

    async def keep(self, since: datetime) -> int:
        """Keep the logs of jobs that have ended and did not change since then; returns how many, `AT_ONCE` at most.

        One that the store does not take leaves room for others until it is tried again, after `SETTLED`.
        """
        async with self._database.read() as connection:
            chosen = await jobs.unarchived(connection, since, AT_ONCE)
        if not chosen:
            return 0
        async with self._database.write() as connection:
            await events.drop_pictures(connection, chosen)
        kept = [job_id for job_id in chosen if await self._kept(job_id)]
        async with self._database.write() as connection:
            await jobs.touch(connection, set(chosen) - set(kept))
            await jobs.mark_archived(connection, kept)
        return len(kept)

    async def _kept(self, job_id: str) -> bool:
        async with self._database.read() as connection:
            entries = await events.all_of(connection, job_id)
        try:
            await asyncio.to_thread(self._keep, job_id, entries)
        except PipelineError as error:
            log.warning("log not kept", job_id=job_id, error=str(error))
            return False
        return True

    def _keep(self, job_id: str, entries: Sequence[Entry]) -> None:
        """Unless the job is being deleted: then its verdict is bare, and who deletes it may not have seen the log."""
        keep_log(self._store.store, job_id, entries)
        final = self._store.final(job_id)
        if final is None or final.bare:
            self._store.store.delete(keys.log(job_id))
