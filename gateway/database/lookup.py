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

from gateway.database.driver import Raw
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
    """What a row means, and the version of the database it was last read from (SQLite)."""

    row: Raw
    job: Job
    version: Sequence[Raw]


class Lookup:
    """Equal states of a job are the same `Job` for a while, so that what follows from them may be kept, too."""

    def __init__(self, database: Database) -> None:
        self._database = database
        dialect = database.engine.dialect
        self._readers = [(column.key, _reader(column, dialect)) for column in COLUMNS]
        self._known: LRUCache[str, Known] = LRUCache(KEPT)
        self._row = Together(self._rows)
        alone = database.dialect == "sqlite"  # a read takes microseconds there, and nothing waits for another
        self._statement = str((ONE if alone else SOME).compile(dialect=dialect))
        self._find = self._alone if alone else self._with_others

    async def find(self, job_id: str, user_id: str) -> Job | None:
        """The job, if it is that user's."""
        known = await self._find(job_id)
        return None if known is None or known.row[1] != user_id else known.job

    async def _alone(self, job_id: str) -> Known | None:
        """Asks first whether anybody has written, which takes half as long as a row."""
        version = await self._database.rows("PRAGMA data_version", ())
        known = self._known.get(job_id)
        if known is not None and known.version == version:
            return known
        rows = await self._database.rows(self._statement, (job_id,))
        return self._understood(rows[0], version) if rows else None

    async def _with_others(self, job_id: str) -> Known | None:
        row = await self._row(job_id)
        return None if row is None else self._understood(row)

    async def _rows(self, job_ids: Sequence[str]) -> list[Raw | None]:
        async with asyncio.timeout(LIMIT_S):
            found = {row[0]: row for row in await self._database.rows(self._statement, (list(job_ids),))}
        return [found.get(job_id) for job_id in job_ids]

    def _understood(self, row: Raw, version: Sequence[Raw] = ()) -> Known:
        known = self._known.get(row[0])
        if known is None or known.row != row:
            values = {key: reader(value) for (key, reader), value in zip(self._readers, row, strict=True)}
            known = Known(row, read(SimpleNamespace(**values)), version)
        elif known.version == version:
            return known
        else:
            known = known._replace(version=version)
        self._known[row[0]] = known
        return known


def _reader(column: Column[Any], dialect: Dialect) -> Callable[[Any], Any]:
    """Makes of a driver's value what SQLAlchemy would."""
    if isinstance(column.type, JSON):
        return lambda text: None if text is None else json.loads(text)
    if isinstance(column.type, UtcDateTime):
        return column.type.dialect_impl(dialect).result_processor(dialect, None) or _same
    return _same


def _same(value: Any) -> Any:  # noqa: ANN401 - any value
    return value
