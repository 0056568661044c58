"""The one writer of the log: events with their numbers, and what they change, in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.database import artifacts, events, jobs, workers
from gateway.database.engine import Database
from gateway.database.events import Entry
from gateway.metrics import Metrics
from gateway.news import News
from gateway.projection import Projection, advance, conclude
from gateway.webhooks.announcer import Announcer
from pipeline.vocabulary import Event, EventKind, Final, Heartbeat, Stage, Status, new_id

VERDICTS = {
    Status.COMPLETED: EventKind.COMPLETED,
    Status.FAILED: EventKind.FAILED,
    Status.CANCELLED: EventKind.CANCELLED,
}
State = tuple[Projection, int]
"""A job's projection and the sequence number of its last event."""


class Ledger:
    """Enters what workers tell and what the store decided.

    A job's log has exactly one verdict, entered in the transaction that concludes the job: the worker's event if there
    is one, else one of our own, so that whoever watches a job learns its end even if no worker lived to tell it.
    """

    def __init__(self, database: Database, news: News, metrics: Metrics, announcer: Announcer) -> None:
        self._database, self._news, self._metrics, self._announcer = database, news, metrics, announcer

    async def enter(self, told: Sequence[Event], finals: Mapping[str, Final], beats: Iterable[Heartbeat] = ()) -> None:
        """Enter events, in this order, the verdicts of jobs, and signs of life."""
        async with self._database.write() as connection:
            changed = await self._merge(connection, told, finals)
            for beat in beats:
                await workers.beat(connection, beat)
            await self._news.announce(connection, changed)
        self._news.tell(changed)

    async def _merge(
        self, connection: AsyncConnection, told: Sequence[Event], finals: Mapping[str, Final]
    ) -> list[str]:
        """Returns the jobs that have new entries."""
        present = await jobs.lock(connection, {event.job_id for event in told} | set(finals))
        seen = await events.known(connection, {event.id for event in told})
        fresh = {event.id: event for event in told if event.id not in seen and event.job_id in present}
        changes, entries = {}, {}
        for job_id, before in present.items():
            its = [event for event in fresh.values() if event.job_id == job_id]
            after = await self._enter_job(connection, job_id, before, its, finals.get(job_id))
            changes[job_id], entries[job_id] = (before[0], after[0]), after[1] - before[1]
        await self._announcer.announce(connection, changes)
        stored = sum(entries.values())
        self._metrics.events.labels("stored").inc(stored)
        self._metrics.events.labels("dropped").inc(max(len(told) - stored, 0))
        return [job_id for job_id, count in entries.items() if count]

    async def _enter_job(
        self, connection: AsyncConnection, job_id: str, before: State, told: Sequence[Event], final: Final | None
    ) -> State:
        """Enter what is new of one job, whose row is locked."""
        projection, seq = before
        concluding = final if final is not None and not projection.status.final else None
        entries: list[Entry] = []
        for event in _with_one_verdict(told, projection, concluding):
            projection = advance(projection, event)
            if concluding is not None and event.kind is VERDICTS[concluding.status]:
                projection = conclude(projection, concluding)
            seq += 1
            entries.append(Entry(seq, projection.progress, event))
        await events.append(connection, entries)
        if concluding is not None:
            await artifacts.add(connection, job_id, concluding.artifacts)
            self._metrics.concluded.labels(concluding.status).inc()
        if (projection, seq) != before:
            media = concluding.metadata or None if concluding else None
            await jobs.save(connection, job_id, projection, seq, media)
        return projection, seq


def _with_one_verdict(told: Sequence[Event], projection: Projection, concluding: Final | None) -> list[Event]:
    """`told` with the verdict that concludes the job now, and with no other; without pictures that come after it."""
    left_out = set(VERDICTS.values())
    if projection.status.final:
        left_out.add(EventKind.PREVIEW)
    kept = [event for event in told if event.kind not in left_out]
    if concluding is None:
        return kept
    verdicts = [event for event in told if event.kind is VERDICTS[concluding.status]]
    return [*kept, verdicts[0] if verdicts else verdict(concluding, projection)]


def verdict(final: Final, projection: Projection) -> Event:
    """The event that tells of a verdict which no worker told of."""
    failure = final.failure
    epoch, _, hop, _ = projection.position or (0, 0, 0, 0)
    return Event(
        id=new_id("event"),
        job_id=final.job_id,
        kind=VERDICTS[final.status],
        stage=failure.stage if failure else projection.stage or Stage.RENDER,
        epoch=epoch,
        hop=hop,
        n=0,
        at=final.at,
        message=f"{failure.message} {failure.remedy}".rstrip() if failure else "",
        level="ERROR" if failure else "INFO",
        data={"code": failure.code} if failure else {},
    )
