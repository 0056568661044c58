"""Counts and times over all users' jobs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.database import jobs as queue
from gateway.database.tables import jobs
from pipeline.vocabulary import Status

ENDED = tuple(status for status in Status if status.final)
"""Named one by one, as an index finds them."""
SAMPLE = 10_000
"""Times are those of the last so many jobs at most."""


@dataclass(frozen=True)
class Backlog:
    """Unfinished jobs of all users.

    Attributes:
        waiting: by model; in the database, not sent to the broker.
        pending: no worker has begun since they were last sent; `waiting` and those in the broker.
        oldest: when the longest pending one was accepted.
    """

    waiting: dict[str, int]
    pending: int
    running: int
    oldest: datetime | None


@dataclass(frozen=True)
class Ended:
    """Jobs that ended in a span of time.

    Attributes:
        waits: seconds from acceptance to a worker's start.
        runs: seconds from there to completion, of completed jobs.
    """

    counts: Counter[str]
    waits: list[float]
    runs: list[float]


async def backlog(connection: AsyncConnection) -> Backlog:
    """What is unfinished at the moment."""
    unfinished = jobs.c.status == Status.PROCESSING
    unbegun = and_(unfinished, or_(jobs.c.stage.is_(None), queue.waiting(queue.lapsed_before())))
    pending = (await connection.execute(select(func.count(), func.min(jobs.c.created_at)).where(unbegun))).one()
    total = (await connection.execute(select(func.count()).where(unfinished))).scalar_one()
    return Backlog(await queue.count_waiting(connection), pending[0], total - pending[0], pending[1])


async def waits(connection: AsyncConnection, since: datetime) -> list[float]:
    """How long jobs waited that a worker began since then, in seconds."""
    chosen = select(jobs.c.created_at, jobs.c.started_at).where(jobs.c.started_at >= since)
    rows = await connection.execute(chosen.order_by(jobs.c.started_at.desc()).limit(SAMPLE))
    return [max((row.started_at - row.created_at).total_seconds(), 0.0) for row in rows]


async def ended(connection: AsyncConnection, since: datetime) -> Ended:
    """What ended since then."""
    done = jobs.c.status.in_(ENDED) & (jobs.c.completed_at >= since)
    rows = await connection.execute(select(jobs.c.status, func.count()).where(done).group_by(jobs.c.status))
    counts = Counter({row[0]: row[1] for row in rows})
    columns = (jobs.c.status, jobs.c.created_at, jobs.c.started_at, jobs.c.completed_at)
    began = done & jobs.c.started_at.is_not(None)
    sample = await connection.execute(select(*columns).where(began).order_by(jobs.c.completed_at.desc()).limit(SAMPLE))
    found = Ended(counts, [], [])
    for row in sample:
        found.waits.append(max((row.started_at - row.created_at).total_seconds(), 0.0))
        if row.status == Status.COMPLETED:
            found.runs.append(max((row.completed_at - row.started_at).total_seconds(), 0.0))
    return found


async def completed(connection: AsyncConnection, limit: int) -> list[tuple[str, str]]:
    """Owner and id of the last completed jobs."""
    chosen = select(jobs.c.user_id, jobs.c.id).where(jobs.c.status == Status.COMPLETED)
    rows = await connection.execute(chosen.order_by(jobs.c.completed_at.desc()).limit(limit))
    return [(row.user_id, row.id) for row in rows]
