"""The workers, as their heartbeats tell."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from sqlalchemy import bindparam, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.database.tables import workers
from pipeline.vocabulary import Heartbeat, now

LIVE = select(workers.c.queues).where(workers.c.seen_at >= bindparam("since"), workers.c.stopping.is_(False))


async def beat(connection: AsyncConnection, heartbeat: Heartbeat) -> None:
    """Note a sign of life, at this machine's time: the clocks of workers may be wrong."""
    values = {
        "host": heartbeat.host,
        "queues": list(heartbeat.queues),
        "seen_at": now(),
        "stopping": heartbeat.stopping,
        "heartbeat": heartbeat.model_dump(mode="json"),
    }
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(workers).values(id=heartbeat.worker_id, **values)
    await connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=values))


async def forget(connection: AsyncConnection, before: datetime) -> None:
    """Forget workers that were heard of last before then: each process that starts is another."""
    await connection.execute(delete(workers).where(workers.c.seen_at < before))


async def live(connection: AsyncConnection, since: datetime) -> Counter[str]:
    """How many workers consume each queue, of those heard of since then that are not stopping."""
    rows = await connection.execute(LIVE, {"since": since})
    return Counter(queue for queues in rows.scalars() for queue in queues)


async def beats(connection: AsyncConnection, since: datetime) -> list[Heartbeat]:
    """The last heartbeat of every worker heard of since then."""
    rows = await connection.execute(
        select(workers.c.heartbeat).where(workers.c.seen_at >= since).order_by(workers.c.id)
    )
    return [Heartbeat.model_validate(beat) for beat in rows.scalars()]
