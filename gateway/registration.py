"""Promises jobs: enters them in the database, those that come together in one transaction (group commit)."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from http import HTTPStatus
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway import idempotency
from gateway.database import jobs, webhooks
from gateway.database.engine import CONNECTIONS, STATEMENT_TIMEOUT_S, Database
from gateway.database.jobs import NewJob
from gateway.errors import translate
from gateway.idempotency import Answer, Attempt, KeyTaken
from gateway.limits.limiter import Limiter, tell
from gateway.limits.policy import Limit, Standing, exceeded
from gateway.together import Together
from pipeline.jobs import Jobs
from pipeline.vocabulary import JobRequest

TOGETHER_S = 10.0
"""How long those may take that go together, for whom all wait who come meanwhile; SQLite may wait as long for a writer
in another process."""
ALONE_S = float(STATEMENT_TIMEOUT_S)
ALONE_AT_ONCE = CONNECTIONS // 2
"""So that those who wait for a user's lock leave connections to others."""


@dataclass(frozen=True)
class Entry:
    """A job that is in the store, and what its client will be told."""

    new: NewJob
    answer: Answer
    attempt: Attempt | None

    @property
    def job(self) -> JobRequest:
        """What was asked."""
        return self.new.request

    @property
    def user_id(self) -> str:
        """Whose it is."""
        return self.job.user_id


class Outcome(NamedTuple):
    """What became of an entry.

    Attributes:
        standing: of its user, where that was looked at.
        refusal: why it was not entered.
    """

    standing: Standing | None = None
    refusal: Exception | None = None

    @property
    def entered(self) -> bool:
        """Whether the job is promised."""
        return self.standing is not None and self.refusal is None


ALONE = Outcome()
"""Not entered with the others; by itself it may be."""


class Registrar:
    """Enters jobs that are in the store.

    First the store, then the database, then the answer: a crash in between leaves a request nobody was promised, never
    a promised job that a worker cannot read. What is refused, or cannot be entered as the database is away, is
    forgotten; not so when the answer to the commit is lost, as the job may be promised.

    Jobs that go together do not wait for other transactions: where one holds a user, that user's jobs are entered
    alone, and where one job cannot be entered, each is. So no user makes others fail, or wait for longer than a moment.
    """

    def __init__(self, database: Database, limiter: Limiter, store: Jobs) -> None:
        self._database, self._limiter, self._store = database, limiter, store
        self._enter_together = Together(self._enter)
        self._turns = asyncio.Semaphore(ALONE_AT_ONCE)
        self._under_way: set[asyncio.Task[None]] = set()

    async def register(self, entry: Entry) -> None:
        """Promise a job, and count it for its user; goes on where the caller is cancelled.

        Raises:
            ApiError: 429, the user has made too many.
            KeyTaken: another request with the attempt's key was faster.
            SQLAlchemyError, OSError: the database is away.
        """
        work = asyncio.create_task(self._register(entry))
        self._under_way.add(work)
        work.add_done_callback(self._under_way.discard)
        await asyncio.shield(work)

    async def close(self) -> None:
        """Give what goes on the time that those have who go together."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=TOGETHER_S)

    async def _register(self, entry: Entry) -> None:
        outcome = await self._enter_together(entry)
        if outcome is ALONE:
            (outcome,) = await self._enter([entry], alone=True)
        if outcome.standing is not None:
            tell(outcome.standing)
        if outcome.refusal is not None:
            await asyncio.to_thread(self._store.forget, entry.job.job_id)
            raise outcome.refusal

    async def _enter(self, entries: Sequence[Entry], *, alone: bool = False) -> list[Outcome]:
        """Raises only when the answer to the commit is lost."""
        limit_s, turn = (ALONE_S, self._turns) if alone else (TOGETHER_S, nullcontext())
        committing = False
        try:
            async with asyncio.timeout(limit_s), turn, self._database.write() as connection:
                standings = await self._standings(connection, {entry.user_id for entry in entries}, alone)
                outcomes = [await _admit(connection, entry, standings) for entry in entries]
                entered = [entry for entry, outcome in zip(entries, outcomes, strict=True) if outcome.entered]
                if entered:
                    await self._add(connection, entered)
                committing = True
        except Exception as error:
            if committing:
                raise
            return [Outcome(refusal=error) if alone or _away(error) else ALONE for _ in entries]
        return outcomes

    async def _standings(
        self, connection: AsyncConnection, user_ids: Collection[str], alone: bool
    ) -> dict[str, Standing]:
        if not alone:
            return await self._limiter.hold_free(connection, Limit.JOBS, user_ids)
        return {user_id: await self._limiter.hold(connection, Limit.JOBS, user_id) for user_id in user_ids}

    async def _add(self, connection: AsyncConnection, entries: Sequence[Entry]) -> None:
        await self._limiter.use(connection, Limit.JOBS, [entry.user_id for entry in entries])
        await jobs.add(connection, *(entry.new for entry in entries))
        for job in (entry.job for entry in entries):
            if job.webhook_url is not None:
                await webhooks.add_for_job(connection, job.user_id, job.job_id, job.webhook_url)


async def _admit(connection: AsyncConnection, entry: Entry, standings: dict[str, Standing]) -> Outcome:
    """Notes in `standings` what the user has left then."""
    standing = standings.get(entry.user_id)
    if standing is None:
        return ALONE
    if standing.remaining == 0:
        return Outcome(standing, exceeded(standing))
    try:
        await idempotency.keep(connection, entry.attempt, entry.answer)
    except KeyTaken as taken:
        return Outcome(refusal=taken)
    standings[entry.user_id] = left = standing.after_one_more()
    return Outcome(left)


def _away(error: Exception) -> bool:
    known = translate(error)
    return known is not None and known.status == HTTPStatus.SERVICE_UNAVAILABLE
