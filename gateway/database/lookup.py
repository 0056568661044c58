"""Finds jobs by their ids, which is what clients ask for most.

SQLAlchemy takes several times as long over a row as its driver. Here rows are taken as the driver gives them, and what
they mean is worked out once for each state of a job. Nothing is remembered in the database's place: it is asked each
time, SQLite at least whether it holds what it held before.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

from cachetools import LRUCache
from sqlalchemy import ARRAY, JSON, Column, Dialect, String, Text, any_, bindparam, cast, select

from gateway.database.driver import Raw, Version
from gateway.database.engine import Database
from gateway.database.jobs import Job, read
from gateway.database.tables import UtcDateTime, jobs
from gateway.together import Together

COLUMNS = tuple(
    jobs.c[key]
    for key in (
        "id", "user_id", "type", "request", "status", "stage", "position", "progress", "started_at", "completed_at",
        "failure", "media", "seq", "expires_at", "reused_from",
    )
)  # fmt: skip
"""Whose it is, and all that a `Job` is made of; the id first, then the owner."""
SELECT = select(*(cast(one, Text) if isinstance(one.type, JSON) else one for one in COLUMNS))
ONE = SELECT.where(jobs.c.id == bindparam("id"))
SOME = SELECT.where(jobs.c.id == any_(bindparam("ids", type_=ARRAY(String))))
LIMIT_S = 5.0
"""How long a row may take; a slow one holds all back that are asked for meanwhile."""
KEPT = 2_000
"""Jobs whose meaning is kept."""


class Known(NamedTuple):
    """What a row means, and the version of the database it was last read from."""

    row: Raw
    job: Job
    version: Version


class Lookup:
    """Equal states of a job are the same `Job` for a while, so that what follows from them may be kept, too."""

    def __init__(self, database: Database) -> None:
        self._database = database
        dialect = database.engine.dialect
        self._readers = [(column.key, _reader(column, dialect)) for column in COLUMNS]
        self._known: LRUCache[str, Known] = LRUCache(KEPT)
        alone = database.dialect == "sqlite"  # a read takes microseconds there, and nothing waits for another
        self._statement = str((ONE if alone else SOME).compile(dialect=dialect))
        self._row = self._one if alone else Together(self._some)

    async def find(self, job_id: str, user_id: str) -> Job | None:
        """The job, if it is that user's."""
        version = await self._database.version()
        known = self._known.get(job_id)
        if known is None or version is None or known.version != version:
            row = await self._row(job_id)
            if row is None or row[1] != user_id:
                return None
            known = self._known[job_id] = Known(row, self._read(known, row), version)
        return known.job if known.row[1] == user_id else None

    def _read(self, known: Known | None, row: Raw) -> Job:
        if known is not None and known.row == row:
            return known.job
        values = {key: reader(value) for (key, reader), value in zip(self._readers, row, strict=True)}
        return read(SimpleNamespace(**values))

    async def _one(self, job_id: str) -> Raw | None:
        rows = await self._database.rows(self._statement, (job_id,))
        return rows[0] if rows else None

    async def _some(self, job_ids: Sequence[str]) -> list[Raw | None]:
        async with asyncio.timeout(LIMIT_S):
            found = {row[0]: row for row in await self._database.rows(self._statement, (list(job_ids),))}
        return [found.get(job_id) for job_id in job_ids]


def _reader(column: Column[Any], dialect: Dialect) -> Callable[[Any], Any]:
    """Makes of a driver's value what SQLAlchemy would."""
    if isinstance(column.type, JSON):
        return lambda text: None if text is None else json.loads(text)
    if isinstance(column.type, UtcDateTime):
        return column.type.dialect_impl(dialect).result_processor(dialect, None) or _same
    return _same


def _same(value: Any) -> Any:  # noqa: ANN401 - any value
    return value
