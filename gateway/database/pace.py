"""What the queue and the log tell about how long things take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.database.jobs import in_flight, lapsed_before, turns
from gateway.database.pieces import one_of
from gateway.database.tables import events, jobs
from pipeline.vocabulary import EventKind, JobRequest, Stage, Status


@dataclass(frozen=True)
class Queue:
    """What is ahead of whom at the renderers of a model.

    Attributes:
        unstarted: id and work (frames times steps) of jobs no renderer has begun, the next one first.
        started: work and percentage of the jobs that are being rendered.
    """

    unstarted: tuple[tuple[str, int], ...]
    started: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Measured:
    """A completed job and the seconds each of its stages took."""

    request: JobRequest
    seconds: Mapping[Stage, float]


async def queue(connection: AsyncConnection, model: str) -> Queue:
    """The queue of a model as it is now."""
    before = lapsed_before()
    sent = select(jobs.c.id, jobs.c.work, jobs.c.progress, jobs.c.stage).where(jobs.c.model == model, in_flight(before))
    sent = sent.order_by(jobs.c.claimed_at, jobs.c.created_at, jobs.c.id)
    flying = (await connection.execute(sent)).all()
    waiting = turns(model, before)
    order = select(waiting.c.id, waiting.c.work).order_by(waiting.c.turn, waiting.c.created_at, waiting.c.id)
    ahead = [(row.id, row.work) for row in flying if row.stage is None]
    return Queue(
        unstarted=(*ahead, *((row.id, row.work) for row in await connection.execute(order))),
        started=tuple((row.work, row.progress) for row in flying if row.stage is not None),
    )


async def measured(connection: AsyncConnection, model: str, limit: int) -> list[Measured]:
    """The last completed jobs of a model that were rendered, with their stages' times from their logs."""
    rendered = and_(jobs.c.model == model, jobs.c.status == Status.COMPLETED, jobs.c.reused_from.is_(None))
    last = select(jobs.c.id, jobs.c.request).where(rendered).order_by(jobs.c.completed_at.desc()).limit(limit)
    requests = {row.id: JobRequest.model_validate(row.request) for row in await connection.execute(last)}
    marks = events.c.kind.in_([EventKind.STARTED, EventKind.FINISHED, EventKind.COMPLETED])
    query = select(events.c.job_id, events.c.stage, events.c.kind, events.c.at)
    began: dict[tuple[str, str], datetime] = {}
    seconds: dict[str, dict[Stage, float]] = {job_id: {} for job_id in requests}
    for row in await connection.execute(query.where(one_of(events.c.job_id, requests), marks).order_by(events.c.at)):
        key = (row.job_id, row.stage)
        if row.kind == EventKind.STARTED:
            began.setdefault(key, row.at)  # the first: a stage that was begun again took longer
        elif key in began:
            seconds[row.job_id][Stage(row.stage)] = (row.at - began[key]).total_seconds()
    return [Measured(request, seconds[job_id]) for job_id, request in requests.items()]
