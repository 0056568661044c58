"""`t2m rebuild`: the database anew, from what the store holds."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from cli import console
from config.catalogue import Catalogue
from config.settings import Settings, load
from gateway.database.migrate import opened
from gateway.rebuild import SQL_ONLY, Rebuild, Restored
from pipeline.store.factory import open_store
from pipeline.vocabulary import Status

TOLD_EVERY_S = 1.0


def rebuild(data: Path | None, *, dry_run: bool) -> int:
    """Restore what is missing and say what was; the exit code is 0 if nothing was unreadable.

    Raises:
        DatabaseError: the database cannot be used.
        StoreError: the store cannot be reached.
    """
    settings = load(data_dir=data)
    restored = asyncio.run(_run(settings, dry_run=dry_run))
    for line in _summary(restored, dry_run=dry_run):
        console.say(line)
    return console.EXIT_FAILED if restored.problems else 0


async def _run(settings: Settings, *, dry_run: bool) -> Restored:
    store, catalogue = open_store(settings), Catalogue.load(settings.models.catalogue)
    async with opened(settings) as database:
        return await Rebuild(settings, catalogue, database, store, dry_run=dry_run).run(_Progress().show)


class _Progress:
    """One line a second at most."""

    def __init__(self) -> None:
        self._told_at = time.monotonic()

    def show(self, restored: Restored) -> None:
        if time.monotonic() - self._told_at >= TOLD_EVERY_S:
            self._told_at = time.monotonic()
            console.note(f"{restored.jobs.total()} jobs, {restored.files} files …")


def _summary(restored: Restored, *, dry_run: bool) -> list[str]:
    verb = "Would restore" if dry_run else "Restored"
    states = ", ".join(f"{restored.jobs[status]} {_word(status)}" for status in Status)
    return [
        *(f"Unreadable: {problem}" for problem in restored.problems),
        f"{verb} {restored.jobs.total()} jobs ({states}) and {restored.files} uploaded files.",
        f"Already there: {restored.present}. Unreadable: {len(restored.problems)}.",
        "Only a backup of the database holds:",
        *(f"  - {what}" for what in SQL_ONLY),
    ]


def _word(status: Status) -> str:
    return "to be sent again" if status is Status.PROCESSING else status.value
