"""Finds out what uploaded files hold, one process for each; the database says which are due."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta

import structlog
from sqlalchemy.exc import SQLAlchemyError

from config.errors import T2MError
from config.settings import FileSettings
from gateway.database import files
from gateway.database.engine import Database
from gateway.database.files import Inspection, Upload
from gateway.inspection import sandbox
from pipeline.errors import ObjectMissing
from pipeline.store.base import ObjectStore
from pipeline.vocabulary import ArtifactRef

log = structlog.get_logger(__name__)

POLL_S = 2.0
"""How soon a file of a gateway that died, or that is tried again, is noticed."""
LEASE = timedelta(seconds=4 * sandbox.LIMIT_S)
"""A file belongs so long to the gateway that looks into it."""
PAUSE = timedelta(minutes=1)
"""Before a file is tried again that could not be fetched."""
TRIES_GONE, TRIES_AWAY = 5, 24 * 60
"""Of a file that the store does not have, and while it is away: a day, as that must not make files unreadable."""
THUMBNAIL_TYPE = "image/jpeg"


class Inspector:
    """Looks into files as they come; `run` is a role. Several gateways share the work."""

    def __init__(self, settings: FileSettings, database: Database, store: ObjectStore) -> None:
        self._database, self._store = database, store
        self._free = asyncio.Semaphore(settings.inspections)
        self._wake = asyncio.Event()
        self._watched: dict[str, asyncio.Event] = {}

    def look(self) -> None:
        """Files have come."""
        self._wake.set()

    async def finished(self, file_id: str, seconds: float) -> None:
        """Returns when a file was looked into, after that time, or if the database cannot tell: the file is stored."""
        event = self._watched.setdefault(file_id, asyncio.Event())
        self.look()
        try:
            async with asyncio.timeout(seconds):
                async with self._database.read() as connection:
                    found = (await files.some(connection, [file_id])).get(file_id)
                if found is not None and found.inspection is Inspection.PENDING:
                    await event.wait()
        except (SQLAlchemyError, OSError):  # also when the time is over
            pass
        finally:
            self._watched.pop(file_id, None)

    async def run(self) -> None:
        """Look into all that are due, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._free.acquire()
                try:
                    upload = await self._next()
                except BaseException:
                    self._free.release()
                    raise
                group.create_task(self._inspect(upload)).add_done_callback(lambda _: self._free.release())

    async def _next(self) -> Upload:
        while True:
            self._wake.clear()
            async with self._database.write() as connection:
                taken = await files.due(connection, 1, LEASE)
            if taken:
                return taken[0]
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._wake.wait()

    async def _inspect(self, upload: Upload) -> None:
        try:
            findings = await sandbox.inspect(self._store, upload.ref)
            thumbnails = await self._keep(findings.thumbnails)
        except T2MError as error:  # the store is away, or has lost the file
            log.warning("file not looked into", file_id=upload.id, error=str(error))
            tries = TRIES_GONE if isinstance(error, ObjectMissing) else TRIES_AWAY
            async with self._database.write() as connection:
                await files.postpone(connection, upload.id, PAUSE, tries)
            return
        state = Inspection.READY if findings.readable else Inspection.UNREADABLE
        async with self._database.write() as connection:
            await files.inspected(connection, upload.id, state, findings.details, thumbnails)
        if (event := self._watched.get(upload.id)) is not None:
            event.set()

    async def _keep(self, pictures: Mapping[str, bytes]) -> dict[str, ArtifactRef]:
        return {name: await asyncio.to_thread(self._store_picture, name, data) for name, data in pictures.items()}

    def _store_picture(self, name: str, data: bytes) -> ArtifactRef:
        incoming = self._store.receive()
        try:
            incoming.write(data)
            incoming.finish()
            return incoming.publish(name, THUMBNAIL_TYPE)
        finally:
            incoming.discard()
