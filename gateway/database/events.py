"""The log: every event of every job, numbered per job. Status, logs and whatever watches a job read it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.database.tables import events
from pipeline.vocabulary import Event


async def known(connection: AsyncConnection, event_ids: Collection[str]) -> set[str]:
    """Those of these ids that are stored."""
    rows = await connection.execute(select(events.c.event_id).where(events.c.event_id.in_(event_ids)))
    return set(rows.scalars())


async def append(connection: AsyncConnection, numbered: Sequence[tuple[int, Event]]) -> None:
    """Store events with their sequence numbers; the caller holds the locks of their jobs."""
    if numbered:
        await connection.execute(insert(events), [_row(seq, event) for seq, event in numbered])


def _row(seq: int, event: Event) -> dict[str, Any]:
    return {
        "job_id": event.job_id,
        "seq": seq,
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
