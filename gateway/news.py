"""Tells every gateway which jobs have new entries in their logs."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Collection, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.database.engine import Database

CHANNEL = "t2m_news"
IDS_PER_NOTICE = 150
"""PostgreSQL's notices hold 8000 bytes, an id has 36."""

Listener = Callable[[Collection[str]], None]


class News:
    """Within this process at once, to other gateways by PostgreSQL's NOTIFY. A notice may get lost; entries do not.

    Whoever waits for news therefore looks into the database now and then. On SQLite, where gateways that share a file
    have no other way to hear of each other, that is all there is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sender = uuid.uuid4().hex
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> None:
        """Call `listener(job_ids)` on the event loop whenever jobs have new entries."""
        self._listeners.append(listener)

    async def announce(self, connection: AsyncConnection, job_ids: Sequence[str]) -> None:
        """Tell other gateways as soon as `connection`'s transaction is committed."""
        for start in range(0, len(job_ids), IDS_PER_NOTICE):
            notice = " ".join([self._sender, *job_ids[start : start + IDS_PER_NOTICE]])
            await self._database.notify(connection, CHANNEL, notice)

    def tell(self, job_ids: Collection[str]) -> None:
        """Tell this process; to be called after the commit."""
        for listener in self._listeners:
            listener(job_ids)

    async def listen(self) -> None:
        """Hear what other gateways announce, until cancelled. Raises OSError when the connection is lost."""
        if self._database.dialect == "sqlite":
            await asyncio.Event().wait()
        await self._database.listen(CHANNEL, self._heard)

    def _heard(self, notice: str) -> None:
        sender, *job_ids = notice.split(" ")
        if sender != self._sender:
            self.tell(job_ids)
