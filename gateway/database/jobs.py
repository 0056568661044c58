"""The jobs: what was asked, where it was sent, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    Select,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.database.pieces import among, one_of
from gateway.database.tables import jobs
from gateway.projection import Projection
from pipeline.vocabulary import Failure, JobRequest, Stage, Status, now, percent

VIDEO_GENERATION = "video_generation"
SORTS: dict[str, Column[Any]] = {name: jobs.c[name] for name in ("created_at", "updated_at", "status")}
ADD = insert(jobs)
PRIORITIES = {"low": -1, "normal": 0, "high": 1}
CLAIM_LEASE = timedelta(seconds=90)
"""After this a claimed job that was not confirmed waits again: its dispatcher died. Sends time out long before."""


@dataclass(frozen=True)
class Job:
    """A job as its owner sees it.

    Attributes:
        media: content of `metadata.json`, None until completed.
        seq: number of the last entry in its log.
        expires_at: when it is removed; None before its end, or if it is kept for ever.
        reused_from: the job whose files it shares.
    """

    id: str
    type: str
    request: JobRequest
    projection: Projection
    media: Mapping[str, Any] | None
    seq: int
    expires_at: datetime | None
    reused_from: str | None
    _made: dict[Callable[[Job], bytes], bytes] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, make: Callable[[Job], bytes]) -> bytes:
        """What `make` makes of this job and of nothing else, made once: see `gateway.database.lookup`."""
        if make not in self._made:
            self._made[make] = make(self)
        return self._made[make]


@dataclass(frozen=True)
class Claimed:
    """A job this gateway is about to send, for the `epoch`-th time."""

    request: JobRequest
    epoch: int


@dataclass(frozen=True)
class Lost:
    """A job that was sent `epoch` times and of which nobody speaks any more.

    Attributes:
        stage: the last that was heard of since then.
        heard_at: when that was, or when it was sent.
    """

    id: str
    epoch: int
    stage: Stage | None
    heard_at: datetime


@dataclass(frozen=True)
class Stream:
    """The name of the token that opens a job's playlists, and until when it is good; None if none was made."""

    nonce: str | None
    expires_at: datetime | None

    def valid_nonce(self, at: datetime) -> str | None:
        """The name of the token that is good at a time."""
        return self.nonce if self.expires_at is not None and self.expires_at > at else None


@dataclass(frozen=True)
class Wanted:
    """Which jobs a user wants to see, and in which order.

    Attributes:
        created_after, created_before: both inclusive, to the millisecond as times are shown.
        sort: a key of `SORTS`; with "-" in front, the greatest first.
    """

    status: str | None = None
    type: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    sort: str = "-created_at"

    def conditions(self) -> list[ColumnElement[bool]]:
        """Of the WHERE clause."""
        given = {
            jobs.c.status.__eq__: self.status,
            jobs.c.type.__eq__: self.type,
            jobs.c.created_at.__ge__: self.created_after,
            jobs.c.created_at.__le__: self.created_before and _last_shown_as(self.created_before),
        }
        return [condition(value) for condition, value in given.items() if value is not None]

    def order(self) -> list[ColumnElement[Any]]:
        """Of the ORDER BY clause; ids are sortable by time and break ties."""
        columns: list[ColumnElement[Any]] = [SORTS[self.sort.removeprefix("-")], jobs.c.id]
        return [column.desc() for column in columns] if self.sort.startswith("-") else columns


def _last_shown_as(at: datetime) -> datetime:
    """The last moment of a time's millisecond; see `gateway.envelope.timestamp`."""
    return at.replace(microsecond=at.microsecond // 1000 * 1000 + 999)


@dataclass(frozen=True)
class NewJob:
    """An accepted job; it waits for a dispatcher, unless it shares another's files and its verdict is about to come.

    Attributes:
        signature: see `pipeline.requests.signature`; "" for one that is never reused.
        retention_s: how long it is kept after its end; None: for ever.
        epoch: how often it was sent.
    """

    request: JobRequest
    signature: str = ""
    retention_s: int | None = None
    epoch: int = 0


async def add(connection: AsyncConnection, *new: NewJob) -> None:
    """Jobs that are promised from now on."""
    await connection.execute(ADD, [_row(job) for job in new])


def _row(new: NewJob) -> dict[str, Any]:
    request = new.request
    return {
        "id": request.job_id,
        "user_id": request.user_id,
        "type": VIDEO_GENERATION,
        "model": request.model,
        "request": request.model_dump(mode="json"),
        "created_at": request.created_at,
        "priority": PRIORITIES[request.priority],
        "work": request.frames * request.steps,
        "seed": request.seed,
        "signature": new.signature,
        "reused_from": request.reused_from,
        "joined": 0,
        "retention_s": new.retention_s,
        "epoch": new.epoch,
        "claimed_at": now() if request.reused_from else None,
        "status": Status.PROCESSING,
        "position": [],
        "progress": 0.0,
        "updated_at": request.created_at,
        "seq": 0,
    }


async def some(connection: AsyncConnection, job_ids: Collection[str]) -> list[Job]:
    """Those jobs, in any order."""
    return [read(row) for row in await connection.execute(select(jobs).where(one_of(jobs.c.id, job_ids)))]


async def concluded(connection: AsyncConnection, job_ids: Sequence[str]) -> set[str]:
    """Those of the jobs that have a verdict, and all they published with it."""
    return await _those(connection, job_ids, jobs.c.status != Status.PROCESSING)


async def present(connection: AsyncConnection, job_ids: Sequence[str]) -> set[str]:
    """Those of the jobs that are here."""
    return await _those(connection, job_ids, true())


async def _those(connection: AsyncConnection, job_ids: Sequence[str], chosen: ColumnElement[bool]) -> set[str]:
    return await among(connection, select(jobs.c.id).where(chosen), jobs.c.id, job_ids)


async def search(
    connection: AsyncConnection, user_id: str, wanted: Wanted, *, limit: int, offset: int
) -> tuple[list[Job], int]:
    """A part of a user's jobs, and how many there are in all."""
    chosen = and_(jobs.c.user_id == user_id, *wanted.conditions())
    total = await connection.execute(select(func.count()).where(chosen))
    rows = await connection.execute(select(jobs).where(chosen).order_by(*wanted.order()).limit(limit).offset(offset))
    return [read(row) for row in rows], total.scalar_one()


async def identical(connection: AsyncConnection, user_id: str, signature: str, seed: int | None) -> Job | None:
    """The user's latest job that makes or made the same video, rather one that is completed; any seed if None."""
    usable = jobs.c.status.in_([Status.COMPLETED, Status.PROCESSING]) & jobs.c.cancelling_at.is_(None)
    chosen = and_(jobs.c.user_id == user_id, jobs.c.signature == signature, usable)
    if seed is not None:
        chosen &= jobs.c.seed == seed
    order = case((jobs.c.status == Status.COMPLETED, 0), else_=1), jobs.c.created_at.desc()
    query = select(jobs).where(chosen).order_by(*order).limit(1).with_for_update()
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else read(row)


async def join(connection: AsyncConnection, job_id: str) -> None:
    """Count one more request that the job answers."""
    await connection.execute(update(jobs).where(jobs.c.id == job_id).values(joined=jobs.c.joined + 1))


async def expired(connection: AsyncConnection, at: datetime, limit: int | None = None) -> list[str]:
    """Ids of jobs whose time is over."""
    rows = await connection.execute(select(jobs.c.id).where(jobs.c.expires_at <= at).limit(limit))
    return list(rows.scalars())


async def stream(connection: AsyncConnection, job_id: str, *, to_change: bool = False) -> Stream | None:
    """The token that opens a job's playlists, None if there is no job; nobody else changes what is read `to_change`."""
    query = select(jobs.c.stream_nonce, jobs.c.stream_expires_at).where(jobs.c.id == job_id)
    row = (await connection.execute(query.with_for_update() if to_change else query)).one_or_none()
    return None if row is None else Stream(row.stream_nonce, row.stream_expires_at)


async def open_stream(connection: AsyncConnection, job_id: str, nonce: str, expires_at: datetime) -> None:
    """Let a token open a job's playlists until then, and no other."""
    values = {"stream_nonce": nonce, "stream_expires_at": expires_at}
    await connection.execute(update(jobs).where(jobs.c.id == job_id).values(values))


async def begin_cancelling(connection: AsyncConnection, job_id: str) -> None:
    """From now on no dispatcher takes the job."""
    await connection.execute(update(jobs).where(jobs.c.id == job_id).values(cancelling_at=now()))


async def remove(connection: AsyncConnection, job_id: str) -> None:
    """Forget a job that has a verdict, and its log and artifacts with it."""
    await connection.execute(delete(jobs).where(jobs.c.id == job_id, jobs.c.status != Status.PROCESSING))


# The dispatcher


def lapsed_before() -> datetime:
    """Claims that were made before then have lapsed."""
    return now() - CLAIM_LEASE


def waiting(lapsed: datetime | BindParameter[datetime]) -> ColumnElement[bool]:
    """In the database, for a dispatcher to send; for `lapsed` see `lapsed_before`."""
    unclaimed = or_(jobs.c.claimed_at.is_(None), jobs.c.claimed_at < lapsed)
    unsent = jobs.c.dispatched_at.is_(None) & jobs.c.cancelling_at.is_(None)
    return and_(jobs.c.status == Status.PROCESSING, unsent, unclaimed)


def in_flight(lapsed: datetime | BindParameter[datetime]) -> ColumnElement[bool]:
    """Sent or being sent, and not past the render: a job that encodes does not keep a renderer busy.

    One that was sent again is at a renderer first, however far it had come.
    """
    sent = or_(jobs.c.dispatched_at.is_not(None), jobs.c.claimed_at >= lapsed)
    rendered = jobs.c.stage.is_not(None) & (jobs.c.progress >= percent(Stage.RENDER, 1.0))
    return and_(jobs.c.status == Status.PROCESSING, sent, ~rendered)


_BY_MODEL: Select[Any] = select(jobs.c.model, func.count()).group_by(jobs.c.model)
COUNT_WAITING = _BY_MODEL.where(waiting(bindparam("lapsed")))
COUNT_IN_FLIGHT = _BY_MODEL.where(in_flight(bindparam("lapsed")))


async def count_waiting(connection: AsyncConnection) -> dict[str, int]:
    """Jobs per model that no dispatcher has sent."""
    return await _count(connection, COUNT_WAITING)


async def count_in_flight(connection: AsyncConnection) -> dict[str, int]:
    """Jobs per model that hold, or are about to hold, a place at a renderer."""
    return await _count(connection, COUNT_IN_FLIGHT)


async def _count(connection: AsyncConnection, query: Select[Any]) -> dict[str, int]:
    return {row[0]: row[1] for row in await connection.execute(query, {"lapsed": lapsed_before()})}


async def claim(connection: AsyncConnection, model: str, room: int) -> list[Claimed]:
    """Take up to `room` waiting jobs of `model`, in the order of fair turns.

    A user's n-th waiting job, by priority and age, has turn n + that user's jobs in flight; the lowest turn goes first,
    then the oldest. So a flood by one user delays another's first job by one job at most, whatever its priority.
    The caller holds the dispatchers' lock.
    """
    before = lapsed_before()
    queue = turns(model, before)
    ordered = select(queue.c.id).order_by(queue.c.turn, queue.c.created_at, queue.c.id).limit(room)
    chosen = list((await connection.execute(ordered)).scalars())
    taken = await connection.execute(
        update(jobs)
        .where(jobs.c.id.in_(chosen), waiting(before))
        .values(claimed_at=now(), epoch=jobs.c.epoch + 1)
        .returning(jobs.c.id, jobs.c.request, jobs.c.epoch)
    )
    place = {job_id: number for number, job_id in enumerate(chosen)}
    rows = sorted(taken, key=lambda row: place[row.id])  # RETURNING promises no order
    return [Claimed(JobRequest.model_validate(row.request), row.epoch) for row in rows]


def turns(model: str, lapsed: datetime) -> Any:  # noqa: ANN401 - a subquery
    """The waiting jobs of `model` with their fair turns; see `claim`."""
    busy = (
        select(jobs.c.user_id, func.count().label("count"))
        .where(jobs.c.model == model, in_flight(lapsed))
        .group_by(jobs.c.user_id)
        .subquery()
    )
    number = func.row_number().over(
        partition_by=jobs.c.user_id, order_by=(jobs.c.priority.desc(), jobs.c.created_at, jobs.c.id)
    )
    turn = number + func.coalesce(busy.c.count, 0)
    return (
        select(jobs.c.id, jobs.c.created_at, jobs.c.work, turn.label("turn"))
        .outerjoin(busy, busy.c.user_id == jobs.c.user_id)
        .where(jobs.c.model == model, waiting(lapsed))
        .subquery()
    )


async def mark_dispatched(connection: AsyncConnection, job_ids: Collection[str]) -> None:
    """The broker has confirmed the messages of these jobs."""
    await connection.execute(update(jobs).where(one_of(jobs.c.id, job_ids)).values(dispatched_at=now()))


async def release(connection: AsyncConnection, claimed: Sequence[Claimed]) -> None:
    """Let those of the jobs wait again that were not sent; it does not count as sent once more.

    Not those that another dispatcher has claimed since, as this one took too long.
    """
    still_claimed = and_(jobs.c.id == bindparam("job_id"), jobs.c.epoch == bindparam("claimed_epoch"))
    unsent = update(jobs).where(still_claimed, jobs.c.dispatched_at.is_(None))
    await connection.execute(
        unsent.values(claimed_at=None, epoch=jobs.c.epoch - 1),
        [{"job_id": job.request.job_id, "claimed_epoch": job.epoch} for job in claimed],
    )


async def recall(connection: AsyncConnection) -> int:
    """Let every unfinished job wait again, for a broker that lived in a process that ended. Returns how many."""
    sent = (jobs.c.status == Status.PROCESSING) & (jobs.c.claimed_at.is_not(None))
    return await _let_wait(connection, sent)


async def _let_wait(connection: AsyncConnection, chosen: ColumnElement[bool]) -> int:
    """As before any worker took them, but for the progress, which never falls. Returns how many."""
    values = {"dispatched_at": None, "claimed_at": None, "stage": None}
    return (await connection.execute(update(jobs).where(chosen).values(values))).rowcount


# The projector


async def lock(connection: AsyncConnection, job_ids: Collection[str]) -> dict[str, tuple[Projection, int]]:
    """Projection and last sequence number of those jobs that exist, locked in the order of their ids."""
    query = select(jobs).where(one_of(jobs.c.id, job_ids)).order_by(jobs.c.id).with_for_update()
    return {row.id: (_projection(row), row.seq) for row in await connection.execute(query)}


async def save(
    connection: AsyncConnection,
    job_id: str,
    projection: Projection,
    seq: int,
    media: Mapping[str, Any] | None = None,
    *,
    at: datetime | None = None,
) -> None:
    """Write a job's projection as of now or `at`, and its media description with the verdict."""
    failure = projection.failure and projection.failure.model_dump(mode="json")
    values: dict[str, Any] = {
        "status": projection.status,
        "stage": projection.stage,
        "position": projection.position,
        "progress": projection.progress,
        "started_at": projection.started_at,
        "completed_at": projection.completed_at,
        "failure": failure,
        "seq": seq,
        "updated_at": at or now(),
    }
    if media is not None:
        values["media"] = media
    if projection.completed_at is not None:
        kept = await connection.execute(select(jobs.c.retention_s).where(jobs.c.id == job_id))
        if (retention_s := kept.scalar_one()) is not None:
            values["expires_at"] = projection.completed_at + timedelta(seconds=retention_s)
    await connection.execute(update(jobs).where(jobs.c.id == job_id).values(values))


async def silent(connection: AsyncConnection, since: datetime, limit: int) -> list[str]:
    """Ids of dispatched, unfinished jobs of which nothing was heard since then, the longest silent first.

    Those that were looked at since then are left out.
    """
    chosen = and_(_quiet(since), _looked_at() < since)
    rows = await connection.execute(select(jobs.c.id).where(chosen).order_by(_looked_at()).limit(limit))
    return list(rows.scalars())


def _looked_at() -> ColumnElement[datetime]:
    return func.coalesce(jobs.c.looked_at, jobs.c.updated_at)


def _quiet(since: datetime) -> ColumnElement[bool]:
    """Dispatched and unfinished, and nothing was heard since then."""
    return and_(jobs.c.status == Status.PROCESSING, jobs.c.dispatched_at < since, jobs.c.updated_at < since)


async def unarchived(connection: AsyncConnection, since: datetime, limit: int) -> list[str]:
    """Ids of jobs that have a verdict, did not change since then, and whose log is not in the store.

    Those that were looked at since then are left out.
    """
    settled = and_(jobs.c.updated_at < since, _looked_at() < since)
    chosen = and_(jobs.c.status != Status.PROCESSING, jobs.c.archived_at.is_(None), settled)
    return list((await connection.execute(select(jobs.c.id).where(chosen).limit(limit))).scalars())


async def mark_archived(connection: AsyncConnection, job_ids: Collection[str]) -> None:
    """The logs of these jobs are in the store."""
    await connection.execute(update(jobs).where(one_of(jobs.c.id, job_ids)).values(archived_at=now()))


async def touch(connection: AsyncConnection, job_ids: Collection[str]) -> None:
    """These jobs, silent or not archived, were looked at now."""
    await connection.execute(update(jobs).where(one_of(jobs.c.id, job_ids)).values(looked_at=now()))


async def lost(connection: AsyncConnection, since: datetime, models: Collection[str], limit: int) -> list[Lost]:
    """Dispatched jobs of these models of which nothing was heard since then, the longest silent first."""
    chosen = and_(_quiet(since), jobs.c.model.in_(models), jobs.c.cancelling_at.is_(None))
    rows = await connection.execute(select(jobs).where(chosen).order_by(jobs.c.updated_at).limit(limit))
    return [
        Lost(row.id, row.epoch, row.stage and Stage(row.stage), max(row.dispatched_at, row.updated_at)) for row in rows
    ]


async def send_again(connection: AsyncConnection, job_ids: Collection[str]) -> None:
    """Let these jobs wait for a dispatcher once more."""
    await _let_wait(connection, one_of(jobs.c.id, job_ids) & (jobs.c.status == Status.PROCESSING))


async def half_cancelled(connection: AsyncConnection, since: datetime, limit: int) -> list[tuple[str, str]]:
    """Id and owner of jobs whose cancellation began before then and was not finished: their gateway died over it."""
    stuck = and_(jobs.c.status == Status.PROCESSING, jobs.c.cancelling_at < since)
    rows = await connection.execute(select(jobs.c.id, jobs.c.user_id).where(stuck).limit(limit))
    return [(row.id, row.user_id) for row in rows]


def read(row: Any) -> Job:  # noqa: ANN401 - a row, or what has its attributes
    """The job of a row."""
    request, projection = JobRequest.model_validate(row.request), _projection(row)
    return Job(row.id, row.type, request, projection, row.media, row.seq, row.expires_at, row.reused_from)


def _projection(row: Any) -> Projection:  # noqa: ANN401
    return Projection(
        status=Status(row.status),
        stage=row.stage and Stage(row.stage),
        position=tuple(row.position),
        progress=row.progress,
        started_at=row.started_at,
        completed_at=row.completed_at,
        failure=row.failure and Failure.model_validate(row.failure),
    )
