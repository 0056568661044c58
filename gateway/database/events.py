"""The log: every event of every job, numbered per job. Status, logs and whatever watches a job read it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, and_, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.database.pieces import one_of
from gateway.database.tables import events
from pipeline.vocabulary import Event, EventKind

KNOWN = tuple(EventKind)
"""What a newer release says beside it, whose gateways share the database while they replace ours, is not for us."""
READABLE = tuple(kind for kind in EventKind if kind is not EventKind.PREVIEW)
ASKED_TOGETHER = 200
"""Jobs in one statement, whose conditions are an OR each: SQLite takes no more than a thousand."""


@dataclass(frozen=True)
class Entry:
    """An event in the log.

    Attributes:
        seq: its number within the job, from 1.
        progress: the job's percentage with this event.
    """

    seq: int
    progress: float
    event: Event


async def known(connection: AsyncConnection, event_ids: Collection[str]) -> set[str]:
    """Those of these ids that are stored."""
    rows = await connection.execute(select(events.c.event_id).where(one_of(events.c.event_id, event_ids)))
    return set(rows.scalars())


async def append(connection: AsyncConnection, entries: Sequence[Entry]) -> None:
    """Store new entries; the caller holds the locks of their jobs."""
    if entries:
        await connection.execute(insert(events), [_row(entry) for entry in entries])


async def page(
    connection: AsyncConnection, job_id: str, *, level: str | None, limit: int, offset: int
) -> tuple[list[Entry], int]:
    """A part of a job's log in its order, and how many entries there are in all; of one level if given, no pictures."""
    chosen = (events.c.job_id == job_id) & events.c.kind.in_(READABLE)
    if level is not None:
        chosen &= events.c.level == level
    total = await connection.execute(select(func.count()).where(chosen))
    rows = await connection.execute(select(events).where(chosen).order_by(events.c.seq).limit(limit).offset(offset))
    return [_entry(row) for row in rows], total.scalar_one()


async def all_of(connection: AsyncConnection, job_id: str) -> list[Entry]:
    """A job's whole log, in its order."""
    chosen = (events.c.job_id == job_id) & events.c.kind.in_(KNOWN)
    rows = await connection.execute(select(events).where(chosen).order_by(events.c.seq))
    return [_entry(row) for row in rows]


async def newer(connection: AsyncConnection, known: Mapping[str, int], limit: int) -> dict[str, list[Entry]]:
    """Per job the entries after a number, in their order; at most `limit` over all jobs."""
    found: dict[str, list[Entry]] = {}
    left = limit
    asked = list(known.items())
    for start in range(0, len(asked), ASKED_TOGETHER):
        some = asked[start : start + ASKED_TOGETHER]
        beyond = or_(*(and_(events.c.job_id == job_id, events.c.seq > seq) for job_id, seq in some))
        chosen = select(events).where(beyond, events.c.kind.in_(KNOWN))
        rows = (await connection.execute(chosen.order_by(events.c.job_id, events.c.seq).limit(left))).all()
        for row in rows:
            found.setdefault(row.job_id, []).append(_entry(row))
        left -= len(rows)
        if not left:
            break
    return found


async def drop_pictures(connection: AsyncConnection, job_ids: Collection[str]) -> None:
    """Of jobs that have ended, whose videos show more; that there were some stays in the log."""
    chosen = one_of(events.c.job_id, job_ids) & (events.c.kind == EventKind.PREVIEW)
    await connection.execute(update(events).where(chosen).values(data={}))


async def verdict(connection: AsyncConnection, job_id: str) -> int | None:
    """Number of the entry that ended a job."""
    ends = events.c.kind.in_([EventKind.COMPLETED, EventKind.FAILED, EventKind.CANCELLED])
    found = await connection.execute(select(events.c.seq).where(events.c.job_id == job_id, ends))
    return found.scalars().first()


def _row(entry: Entry) -> dict[str, Any]:
    event = entry.event
    return {
        "job_id": event.job_id,
        "seq": entry.seq,
        "progress": entry.progress,
        "event_id": event.id,
        "kind": event.kind,
        "stage": event.stage,
        "epoch": event.epoch,
        "hop": event.hop,
        "n": event.n,
        "at": event.at,
        "fraction": event.fraction,
        "level": event.level,
        "message": event.message.replace("\x00", ""),  # PostgreSQL's text cannot hold it
        "data": event.data,
    }


def _entry(row: Row[Any]) -> Entry:
    fields = row._mapping
    event = Event(id=row.event_id, **{name: fields[name] for name in Event.model_fields if name in fields})
    return Entry(row.seq, row.progress, event)
