"""`t2m sweep`: what a gateway does every hour, now; or only what it would do."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

from rich.filesize import decimal

from cli import console
from config.settings import Settings, load
from gateway.database import files, jobs
from gateway.database.migrate import opened
from gateway.sweep import Swept, sweep
from pipeline.jobs import Jobs
from pipeline.store.factory import open_store
from pipeline.vocabulary import now


def sweep_now(data: Path | None, *, dry_run: bool) -> None:
    """Sweep once and say what went.

    Raises:
        DatabaseError: the database cannot be used.
        StoreError: the store cannot be reached.
    """
    settings = load(data_dir=data)
    for line in asyncio.run(_run(settings, dry_run=dry_run)):
        console.say(line)


async def _run(settings: Settings, *, dry_run: bool) -> list[str]:
    hours = settings.files.sweep_grace_hours
    async with opened(settings) as database:
        swept = await sweep(Jobs(open_store(settings)), database, timedelta(hours=hours), dry_run=dry_run)
        async with database.read() as connection:
            over = len(await jobs.expired(connection, now())), len(await files.expired(connection, now()))
    return _summary(swept, over, hours, dry_run=dry_run)


def _summary(swept: Swept, over: tuple[int, int], hours: float, *, dry_run: bool) -> list[str]:
    verb = "Would remove" if dry_run else "Removed"
    return [
        f"{verb} blobs that nothing has referred to for {hours:g} hours: {swept.blobs} ({decimal(swept.bytes)})",
        f"{verb} objects of uploads that were broken off: {swept.incoming}",
        f"Blobs that nothing refers to, for less than that: {swept.waiting}",
        f"Expired, and removed by a gateway within a minute: jobs {over[0]}, files {over[1]}",
    ]
