"""Whom users want told about their jobs, and the secrets that sign it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Table, case, delete, func, insert, literal, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from yarl import URL

from gateway.database.pieces import one_of
from gateway.database.tables import jobs, webhook_secrets, webhooks
from gateway.pagination import Page
from gateway.webhooks.messages import EVENTS
from gateway.webhooks.signing import BOTH_SIGN, new_secret
from pipeline.vocabulary import new_id, now


@dataclass(frozen=True)
class Webhook:
    """A webhook as its owner sees it; its secret is shown when it is made and never again.

    Attributes:
        job_id: whose own `webhook_url` this is; None: it is told of all jobs of the user.
        disabled_reason: why the gateway stopped calling it.
    """

    id: str
    job_id: str | None
    url: str
    events: tuple[str, ...]
    active: bool
    disabled_reason: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class Listener:
    """A webhook that wants to hear of a job.

    Attributes:
        shared: the job has the files of an identical one, and was never started.
    """

    webhook_id: str
    events: frozenset[str]
    job_id: str
    job_type: str
    shared: bool


async def add(connection: AsyncConnection, user_id: str, url: str, events: Sequence[str], secret: str) -> Webhook:
    """A new webhook for all jobs of a user."""
    return await _insert(connection, user_id=user_id, url=url, events=list(events), secret=secret)


async def receivers(connection: AsyncConnection, job_id: str) -> list[str]:
    """URLs of the webhooks that are told of that job alone."""
    return list((await connection.execute(select(webhooks.c.url).where(webhooks.c.job_id == job_id))).scalars())


async def add_for_job(connection: AsyncConnection, user_id: str, job_id: str, url: str) -> Webhook:
    """A new webhook for one job and all events, signed with the user's own secret; the job exists already."""
    await user_secret(connection, user_id)
    return await _insert(connection, user_id=user_id, job_id=job_id, url=url, events=list(EVENTS))


async def _insert(connection: AsyncConnection, *, url: str, **values: Any) -> Webhook:  # noqa: ANN401 - columns
    at = now()
    known = {"url": url, "receiver": str(URL(url).origin()), "active": True, "created_at": at, "updated_at": at}
    statement = insert(webhooks).values(id=new_id("webhook"), **known, **values).returning(webhooks)
    return _webhook((await connection.execute(statement)).one())


async def find(connection: AsyncConnection, webhook_id: str, user_id: str) -> Webhook | None:
    """The webhook, if it is that user's."""
    row = (await connection.execute(select(webhooks).where(_owned(webhook_id, user_id)))).one_or_none()
    return None if row is None else _webhook(row)


async def page(
    connection: AsyncConnection, user_id: str, page: Page, job_id: str | None = None
) -> tuple[list[Webhook], int]:
    """One page of a user's webhooks for all jobs, or of those of one job, the newest first; and how many there are."""
    mine = (webhooks.c.user_id == user_id) & (
        webhooks.c.job_id.is_(None) if job_id is None else webhooks.c.job_id == job_id
    )
    total = await connection.execute(select(func.count()).select_from(webhooks).where(mine))
    newest = select(webhooks).where(mine).order_by(webhooks.c.created_at.desc(), webhooks.c.id.desc())
    rows = await connection.execute(newest.limit(page.size).offset(page.offset))
    return [_webhook(row) for row in rows], total.scalar_one()


async def change(
    connection: AsyncConnection, webhook_id: str, user_id: str, values: Mapping[str, Any]
) -> Webhook | None:
    """Set `url`, `events` or `active`; a webhook that is made active again has no reason to be disabled."""
    known = dict(values) | {"updated_at": now()}
    if "url" in values:
        known["receiver"] = str(URL(values["url"]).origin())
    if values.get("active"):
        known["disabled_reason"] = None
    statement = update(webhooks).where(_owned(webhook_id, user_id)).values(**known).returning(webhooks)
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else _webhook(row)


async def rotate(connection: AsyncConnection, webhook_id: str, user_id: str, secret: str) -> datetime | None:
    """Give a webhook a new secret; until when the previous one signs, None if there is no such webhook.

    See `_rotated`. The present secret may be the user's own.
    """
    users = select(webhook_secrets.c.secret).where(webhook_secrets.c.user_id == user_id).scalar_subquery()
    values = _rotated(webhooks, func.coalesce(webhooks.c.secret, users), secret) | {"updated_at": now()}
    statement = update(webhooks).where(_owned(webhook_id, user_id)).values(values).returning(webhooks.c.rotated_at)
    rotated_at = (await connection.execute(statement)).scalar_one_or_none()
    return None if rotated_at is None else rotated_at + BOTH_SIGN


async def remove(connection: AsyncConnection, webhook_id: str, user_id: str) -> bool:
    """Delete a webhook, its deliveries and their log; whether there was one."""
    done = await connection.execute(delete(webhooks).where(_owned(webhook_id, user_id)))
    return done.rowcount == 1


async def disable(connection: AsyncConnection, webhook_id: str, reason: str) -> None:
    """Call it no more until its owner says so."""
    await connection.execute(
        update(webhooks)
        .where(webhooks.c.id == webhook_id)
        .values(active=False, disabled_reason=reason, updated_at=now())
    )


async def user_secret(connection: AsyncConnection, user_id: str) -> str:
    """What signs for the `webhook_url` of the user's jobs; made when it is first needed."""
    insertion = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insertion(webhook_secrets).values(user_id=user_id, secret=new_secret()).on_conflict_do_nothing()
    await connection.execute(statement)
    query = select(webhook_secrets.c.secret).where(webhook_secrets.c.user_id == user_id)
    return str((await connection.execute(query)).scalar_one())


async def rotate_user_secret(connection: AsyncConnection, user_id: str, secret: str) -> datetime:
    """Give a user a new secret; until when the previous one signs (see `_rotated`)."""
    await user_secret(connection, user_id)
    values = _rotated(webhook_secrets, webhook_secrets.c.secret, secret)
    statement = update(webhook_secrets).where(webhook_secrets.c.user_id == user_id).values(values)
    done = await connection.execute(statement.returning(webhook_secrets.c.rotated_at))
    rotated_at: datetime = done.scalar_one()
    return rotated_at + BOTH_SIGN


def _rotated(table: Table, present: ColumnElement[str], secret: str) -> dict[str, ColumnElement[Any] | str]:
    """The present secret signs beside the new one for a day.

    Within that day the next rotation replaces the new one alone: its answer may have been lost, so that receivers hold
    the one before.
    """
    at = now()
    both_sign = table.c.rotated_at > at - BOTH_SIGN
    return {
        "previous_secret": case((both_sign, table.c.previous_secret), else_=present),
        "secret": secret,
        "rotated_at": case((both_sign, table.c.rotated_at), else_=literal(at, table.c.rotated_at.type)),
    }


async def listening(connection: AsyncConnection, job_ids: Collection[str]) -> list[Listener]:
    """Active webhooks that hear of these jobs, kept as they are until the transaction ends.

    One that is disabled meanwhile would leave messages on their way that nobody sends.
    """
    query = (
        select(webhooks.c.id, webhooks.c.events, jobs.c.id.label("of"), jobs.c.type, jobs.c.reused_from)
        .join(jobs, jobs.c.user_id == webhooks.c.user_id)
        .where(one_of(jobs.c.id, job_ids), webhooks.c.active)
        .order_by(webhooks.c.id)
        .with_for_update(read=True, of=webhooks)
    )
    kinds = (webhooks.c.job_id.is_(None), webhooks.c.job_id == jobs.c.id)  # each by an index; neither is, with an OR
    rows = [row for kind in kinds for row in await connection.execute(query.where(kind))]
    return [Listener(row.id, frozenset(row.events), row.of, row.type, row.reused_from is not None) for row in rows]


def _owned(webhook_id: str, user_id: str) -> ColumnElement[bool]:
    return (webhooks.c.id == webhook_id) & (webhooks.c.user_id == user_id)


def _webhook(row: Row[Any]) -> Webhook:
    return Webhook(
        id=row.id,
        job_id=row.job_id,
        url=row.url,
        events=tuple(row.events),
        active=row.active,
        disabled_reason=row.disabled_reason,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
