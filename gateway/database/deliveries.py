"""Messages on their way to receivers, and the log of those that arrived or did not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, delete, exists, func, insert, literal, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.database.pieces import one_of
from gateway.database.tables import deliveries, delivery_attempts, webhook_secrets, webhooks
from gateway.pagination import Page
from gateway.webhooks.messages import WebhookEvent
from gateway.webhooks.signing import BOTH_SIGN
from pipeline.vocabulary import new_id, now

PER_USER = 64
"""Deliveries of one user under way at once in one process, so that nobody's many slow receivers take all places."""


class DeliveryStatus(StrEnum):
    """What became of a delivery."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    """Given up: every attempt failed, or the webhook was disabled."""
    DROPPED = "dropped"
    """Progress that something later had overtaken before it arrived."""


@dataclass(frozen=True)
class Attempt:
    """One try of a delivery.

    Attributes:
        response_status: None without an answer.
        error: None when it was delivered.
    """

    number: int
    at: datetime
    seconds: float
    response_status: int | None
    error: str | None


@dataclass(frozen=True)
class Delivery:
    """A line of the delivery log, with its attempts."""

    id: str
    message_id: str
    webhook_id: str
    job_id: str | None
    event: str
    body: str
    status: DeliveryStatus
    due_at: datetime
    created_at: datetime
    ended_at: datetime | None
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True)
class Lane:
    """Deliveries in one lane wait for each other's places: those of one user to one receiver."""

    user_id: str
    receiver: str


@dataclass(frozen=True)
class Claimed:
    """A delivery this gateway is about to attempt; nobody else does before `lease`.

    Attributes:
        attempts: made before.
        keys: the secret, then the one before it while that signs too.
    """

    id: str
    message_id: str
    webhook_id: str
    job_id: str | None
    rank: int | None
    event: str
    body: str
    attempts: int
    lease: datetime
    url: str
    lane: Lane
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Draft:
    """A message to one webhook about a job."""

    webhook_id: str
    job_id: str
    rank: int
    event: str
    body: str


# Who has something to tell


async def add(connection: AsyncConnection, drafts: Sequence[Draft]) -> None:
    """Put messages on their way."""
    rows = [_row(new_id("msg"), **vars(draft)) for draft in drafts]
    if rows:
        insertion = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        await connection.execute(insertion(deliveries).on_conflict_do_nothing(), rows)


async def add_alone(
    connection: AsyncConnection,
    webhook_id: str,
    event: str,
    body: str,
    message_id: str | None = None,
    job_id: str | None = None,
) -> str:
    """Put one message on its way that waits for no other: a test, or one sent again. Returns the delivery's id."""
    row = _row(message_id or new_id("msg"), webhook_id=webhook_id, job_id=job_id, rank=None, event=event, body=body)
    await connection.execute(insert(deliveries).values(row))
    return str(row["id"])


def _row(message_id: str, **values: object) -> dict[str, Any]:
    at = now()
    return {
        "id": new_id("delivery"),
        "message_id": message_id,
        "status": DeliveryStatus.PENDING,
        "attempts": 0,
        "due_at": at,
        "created_at": at,
        **values,
    }


# Who sends


def _unleased(at: datetime) -> ColumnElement[bool]:
    return or_(deliveries.c.leased_until.is_(None), deliveries.c.leased_until < at)


def _due(at: datetime) -> ColumnElement[bool]:
    return and_(deliveries.c.status == DeliveryStatus.PENDING, deliveries.c.due_at <= at, _unleased(at))


def _held() -> ColumnElement[bool]:
    """Whether an earlier message of the same job to the same webhook is still on its way."""
    earlier = deliveries.alias("earlier")
    return exists().where(
        earlier.c.webhook_id == deliveries.c.webhook_id,
        earlier.c.job_id == deliveries.c.job_id,
        earlier.c.rank < deliveries.c.rank,
        earlier.c.status == DeliveryStatus.PENDING,
    )


async def any_due(connection: AsyncConnection) -> bool:
    """Whether there is something to claim, except for places and order."""
    query = select(deliveries.c.id).join(webhooks).where(webhooks.c.active, _due(now())).limit(1)
    return (await connection.execute(query)).first() is not None


async def claim(
    connection: AsyncConnection, room: int, per_lane: int, busy: Mapping[Lane, int], lease: timedelta
) -> list[Claimed]:
    """Take up to `room` deliveries that are due and wait for no earlier one.

    Each lane gets its first place before any lane gets a second one.

    Args:
        per_lane: places of a lane.
        busy: places taken in this process.
        lease: how long nobody else takes them.
    """
    at = now()
    await _drop_overtaken(connection, at)
    chosen = _fairly(at, per_lane, busy).limit(room)
    free = select(deliveries.c.id).where(deliveries.c.id.in_(chosen), _due(at)).with_for_update(skip_locked=True)
    ids = list((await connection.execute(free)).scalars())
    if not ids:
        return []
    await connection.execute(update(deliveries).where(one_of(deliveries.c.id, ids)).values(leased_until=at + lease))
    return await _claimed(connection, ids, at)


async def _drop_overtaken(connection: AsyncConnection, at: datetime) -> None:
    """End progress that nobody is sending and that something later has overtaken, so that it holds nothing back."""
    later = deliveries.alias("later")
    follows = exists().where(
        later.c.webhook_id == deliveries.c.webhook_id,
        later.c.job_id == deliveries.c.job_id,
        later.c.rank > deliveries.c.rank,
    )
    overtaken = (
        select(deliveries.c.id)
        .where(
            deliveries.c.status == DeliveryStatus.PENDING,
            deliveries.c.event == WebhookEvent.PROGRESS,
            _unleased(at),
            follows,
        )
        .with_for_update(skip_locked=True, of=deliveries)
    )
    dropped = {"status": DeliveryStatus.DROPPED, "ended_at": at}
    await connection.execute(update(deliveries).where(deliveries.c.id.in_(overtaken)).values(**dropped))


def _fairly(at: datetime, per_lane: int, busy: Mapping[Lane, int]) -> Select[Any]:
    """Ids of what may be taken, the fairest first."""
    lane = func.row_number().over(
        partition_by=(webhooks.c.user_id, webhooks.c.receiver), order_by=(deliveries.c.due_at, deliveries.c.id)
    )
    waiting = (
        select(deliveries.c.id, deliveries.c.due_at, webhooks.c.user_id, webhooks.c.receiver, lane.label("turn"))
        .join(webhooks)
        .where(webhooks.c.active, _due(at), ~_held())
        .subquery()
    )
    in_lanes = [
        ((waiting.c.user_id == lane.user_id) & (waiting.c.receiver == lane.receiver), per_lane - count)
        for lane, count in busy.items()
    ]
    number = func.row_number().over(
        partition_by=waiting.c.user_id, order_by=(waiting.c.turn, waiting.c.due_at, waiting.c.id)
    )
    turns = select(waiting, number.label("of_user")).where(waiting.c.turn <= _places(in_lanes, per_lane)).subquery()
    of_users: Counter[str] = Counter()
    for taken, count in busy.items():
        of_users[taken.user_id] += count
    shares = [(turns.c.user_id == user_id, PER_USER - count) for user_id, count in of_users.items()]
    return (
        select(turns.c.id)
        .where(turns.c.of_user <= _places(shares, PER_USER))
        .order_by(turns.c.turn, turns.c.due_at, turns.c.id)
    )


def _places(taken: Sequence[tuple[ColumnElement[bool], int]], whole: int) -> ColumnElement[int]:
    """`whole`, or what is left of it where a condition holds."""
    return case(*taken, else_=whole) if taken else literal(whole)


async def _claimed(connection: AsyncConnection, ids: Sequence[str], at: datetime) -> list[Claimed]:
    own = webhooks.c.secret.is_not(None)
    query = (
        select(
            deliveries,
            webhooks.c.url,
            webhooks.c.user_id,
            webhooks.c.receiver,
            case((own, webhooks.c.secret), else_=webhook_secrets.c.secret).label("secret"),
            case((own, webhooks.c.previous_secret), else_=webhook_secrets.c.previous_secret).label("previous"),
            case((own, webhooks.c.rotated_at), else_=webhook_secrets.c.rotated_at).label("rotated_at"),
        )
        .join(webhooks)
        .outerjoin(webhook_secrets, webhook_secrets.c.user_id == webhooks.c.user_id)
        .where(one_of(deliveries.c.id, ids))
        .order_by(deliveries.c.due_at, deliveries.c.id)
    )
    return [
        Claimed(
            id=row.id,
            message_id=row.message_id,
            webhook_id=row.webhook_id,
            job_id=row.job_id,
            rank=row.rank,
            event=row.event,
            body=row.body,
            attempts=row.attempts,
            lease=row.leased_until,
            url=row.url,
            lane=Lane(row.user_id, row.receiver),
            keys=(row.secret, row.previous) if _signs(row.previous, row.rotated_at, at) else (row.secret,),
        )
        for row in await connection.execute(query)
    ]


def _signs(previous: str | None, rotated_at: datetime | None, at: datetime) -> bool:
    return previous is not None and rotated_at is not None and rotated_at > at - BOTH_SIGN


async def note(
    connection: AsyncConnection, claimed: Claimed, attempt: Attempt, retry_at: datetime | None
) -> DeliveryStatus | None:
    """Store how an attempt went; None if the lease had run out, so that somebody else's attempt counts.

    Args:
        retry_at: when to try again after a failure; None gives it up.
    """
    values: dict[str, Any] = {"attempts": attempt.number, "leased_until": None}
    if attempt.error is None:
        values |= {"status": DeliveryStatus.DELIVERED, "ended_at": now()}
    elif retry_at is None:
        values |= {"status": DeliveryStatus.FAILED, "ended_at": now()}
    else:
        values |= {"status": DeliveryStatus.PENDING, "due_at": retry_at}
    leased = (deliveries.c.id == claimed.id) & (deliveries.c.leased_until == claimed.lease)
    done = await connection.execute(update(deliveries).where(leased).values(**values))
    if done.rowcount == 0:
        return None
    await connection.execute(insert(delivery_attempts).values(delivery_id=claimed.id, **vars(attempt)))
    return DeliveryStatus(values["status"])


async def release(connection: AsyncConnection, claimed: Collection[Claimed]) -> None:
    """Let others take what was not attempted to the end."""
    for one in claimed:
        mine = (deliveries.c.id == one.id) & (deliveries.c.leased_until == one.lease)
        await connection.execute(update(deliveries).where(mine).values(leased_until=None))


async def give_up(connection: AsyncConnection, webhook_id: str) -> None:
    """End all that is on its way to a webhook."""
    waiting = (deliveries.c.webhook_id == webhook_id) & (deliveries.c.status == DeliveryStatus.PENDING)
    ended = {"status": DeliveryStatus.FAILED, "ended_at": now(), "leased_until": None}
    await connection.execute(update(deliveries).where(waiting).values(**ended))


async def forget(connection: AsyncConnection, before: datetime, limit: int) -> int:
    """Delete up to `limit` of those that ended before then from the log; returns how many."""
    old = select(deliveries.c.id).where(deliveries.c.ended_at < before).order_by(deliveries.c.ended_at).limit(limit)
    chosen = deliveries.c.id.in_(old.with_for_update(skip_locked=True))
    return (await connection.execute(delete(deliveries).where(chosen))).rowcount


async def count_pending(connection: AsyncConnection) -> int:
    """Deliveries on their way."""
    pending = deliveries.c.status == DeliveryStatus.PENDING
    return int((await connection.execute(select(func.count()).select_from(deliveries).where(pending))).scalar_one())


# The log


async def find(connection: AsyncConnection, webhook_id: str, delivery_id: str) -> Delivery | None:
    """A delivery of that webhook."""
    mine = (deliveries.c.id == delivery_id) & (deliveries.c.webhook_id == webhook_id)
    found = await _logged(connection, select(deliveries).where(mine))
    return found[0] if found else None


async def page(
    connection: AsyncConnection, webhook_id: str, page: Page, status: str | None, event: str | None
) -> tuple[list[Delivery], int]:
    """One page of a webhook's deliveries, the newest first, and how many there are."""
    asked = [deliveries.c.webhook_id == webhook_id]
    asked += [] if status is None else [deliveries.c.status == status]
    asked += [] if event is None else [deliveries.c.event == event]
    total = await connection.execute(select(func.count()).select_from(deliveries).where(*asked))
    newest = select(deliveries).where(*asked).order_by(deliveries.c.created_at.desc(), deliveries.c.id.desc())
    return await _logged(connection, newest.limit(page.size).offset(page.offset)), total.scalar_one()


async def _logged(connection: AsyncConnection, query: Select[Any]) -> list[Delivery]:
    rows = (await connection.execute(query)).all()
    tried = (
        select(delivery_attempts)
        .where(one_of(delivery_attempts.c.delivery_id, [row.id for row in rows]))
        .order_by(delivery_attempts.c.number)
    )
    attempts: dict[str, list[Attempt]] = {row.id: [] for row in rows}
    for row in await connection.execute(tried):
        attempts[row.delivery_id].append(Attempt(row.number, row.at, row.seconds, row.response_status, row.error))
    return [
        Delivery(
            id=row.id,
            message_id=row.message_id,
            webhook_id=row.webhook_id,
            job_id=row.job_id,
            event=row.event,
            body=row.body,
            status=DeliveryStatus(row.status),
            due_at=row.due_at,
            created_at=row.created_at,
            ended_at=row.ended_at,
            attempts=tuple(attempts[row.id]),
        )
        for row in rows
    ]
