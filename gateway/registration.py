"""Promises jobs: enters them in the database, those that come together in one transaction (group commit)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway import idempotency
from gateway.database import jobs, webhooks
from gateway.database.engine import Database
from gateway.database.jobs import NewJob
from gateway.errors import translate
from gateway.idempotency import Answer, Attempt, KeyTaken
from gateway.limits.limiter import Limiter, tell
from gateway.limits.policy import Limit, Standing, exceeded
from gateway.together import Together
from pipeline.jobs import Jobs
from pipeline.vocabulary import JobRequest


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

    Jobs that go together wait for nobody: where another transaction holds the user, or one of them cannot be entered,
    each is entered alone. So no user makes others wait or fail.
    """

    def __init__(self, database: Database, limiter: Limiter, store: Jobs) -> None:
        self._database, self._limiter, self._store = database, limiter, store
        self._enter_together = Together(self._enter)

    async def register(self, entry: Entry) -> None:
        """Promise a job, and count it for its user.

        Raises:
            ApiError: 429, the user has made too many.
            KeyTaken: another request with the attempt's key was faster.
            SQLAlchemyError, OSError: the database is away.
        """
        outcome = await self._enter_together(entry)
        if outcome is ALONE:
            (outcome,) = await self._enter([entry], alone=True)
        if outcome.standing is not None:
            tell(outcome.standing)
        if outcome.refusal is not None:
            await asyncio.shield(asyncio.to_thread(self._store.forget, entry.job.job_id))
            raise outcome.refusal

    async def _enter(self, entries: Sequence[Entry], *, alone: bool = False) -> list[Outcome]:
        """Raises only when the answer to the commit is lost."""
        committing = False
        try:
            async with self._database.write() as connection:
                hold = self._limiter.hold if alone else self._limiter.hold_free
                standings = await hold(connection, Limit.JOBS, {entry.user_id for entry in entries})
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
