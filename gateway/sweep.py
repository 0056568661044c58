"""Removes blobs that nothing refers to. Deleting files and jobs only drops references; this is what frees space.

A blob goes when two things hold for the whole grace: no sweep has found a reference to it, and nobody has written it.
References are rows of files, thumbnails and published videos, and every digest that the objects of an unfinished job
name, or those of a job or upload that the database does not know: it may have been lost, and wait to be rebuilt. The
last question is asked in the transaction that removes it, with a lock that new references of files take as well. What
workers have stored and not yet recorded is protected by the grace: storing bytes that are there already makes a blob
young again (`ObjectStore.put_file`). Only blobs that are old already are noted as unreferenced: whoever refers to one
that was noted has written it anew.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby, islice

import structlog

from gateway.context import Gateway
from gateway.database import blobs, files, jobs
from gateway.database.engine import Database
from gateway.roles import EXPECTED
from pipeline import keys
from pipeline.errors import ObjectMissing, RecordUnreadable
from pipeline.jobs import Jobs
from pipeline.store.base import ObjectInfo, ObjectStore
from pipeline.vocabulary import Final, now

log = structlog.get_logger(__name__)

FIRST_S, EVERY_S = 60.0, 3600.0
"""Up to half as much again before the first sweep, so that gateways that start together do not sweep together."""
FANS = tuple(f"{keys.BLOBS}sha256/{number:02x}/" for number in range(256))
"""Blobs are looked at a 256th at a time, which bounds what is held in memory."""
TOGETHER = 500
"""Jobs or uploads that are looked at together, which bounds what is held of their listing."""
Objects = tuple[str, list[ObjectInfo]]
"""A job or an upload, and its objects that may name blobs."""
DIGEST = re.compile(rb"sha256:[0-9a-f]{64}")
MAX_WORD = 1 << 20
"""Longest object that names blobs; checkpoints are longer and name none."""


@dataclass
class Swept:
    """What a sweep removed, or would remove.

    Attributes:
        blobs, bytes: that went.
        waiting: blobs that nothing refers to, but for less than the grace as far as sweeps know.
        incoming: objects of uploads that died on their way in.
    """

    blobs: int = 0
    bytes: int = 0
    waiting: int = 0
    incoming: int = 0


async def run(gateway: Gateway) -> None:
    """Sweep soon and then every hour until cancelled; several gateways may do it at the same time."""
    grace = timedelta(hours=gateway.settings.files.sweep_grace_hours)
    await asyncio.sleep(FIRST_S * random.uniform(1, 1.5))  # noqa: S311 - spreads gateways, hides nothing
    while True:
        try:
            swept = await sweep(gateway.store, gateway.database, grace)
        except EXPECTED as error:  # here, since a role that fails begins again at once, and each sweep reads much
            gateway.metrics.role_crashes.labels("sweep").inc()
            log.error("sweep failed", error=str(error) or repr(error), next_in_s=EVERY_S)
        else:
            if swept.blobs:
                log.info("blobs removed that nothing refers to", count=swept.blobs, bytes=swept.bytes)
        await asyncio.sleep(EVERY_S)


async def sweep(store: Jobs, database: Database, grace: timedelta, *, dry_run: bool = False) -> Swept:
    """Note which blobs nothing refers to, and remove those of which that holds since the grace.

    Args:
        dry_run: neither note nor remove anything, only say what would go.
    """
    objects, swept = store.store, Swept()
    before = time.time() - grace.total_seconds()
    needed = await _needed(store, database, before, dry_run=dry_run)
    for fan in FANS:
        old = await asyncio.to_thread(_older, objects, fan, before)
        if not old:
            continue
        loose = await _loose(database, old, needed, dry_run=dry_run)
        async with database.read() as connection:
            due = loose & set(await blobs.loose(connection, now() - grace, fan))
        swept.waiting += len(loose - due)
        for key in due:
            if dry_run or await _remove(objects, database, key, before):
                swept.blobs += 1
                swept.bytes += old[key].size
    for key in await asyncio.to_thread(_older, objects, keys.INCOMING, before):
        swept.incoming += 1
        if not dry_run:
            await asyncio.to_thread(objects.delete, key)
    return swept


async def _loose(database: Database, old: dict[str, ObjectInfo], needed: set[str], *, dry_run: bool) -> set[str]:
    """Those of the old blobs that nothing refers to; noted as such, unless the run is dry."""
    candidates = old.keys() - needed
    if dry_run:
        async with database.read() as connection:
            return candidates - await blobs.referenced(connection, candidates)
    async with database.write() as connection:
        loose = candidates - await blobs.referenced(connection, candidates)
        await blobs.tie(connection, old.keys() - loose)
        await blobs.loosen(connection, {key: old[key].size for key in loose}, now())
    return loose


async def _remove(store: ObjectStore, database: Database, key: str, before: float) -> bool:
    """Remove a blob unless something refers to it now, or somebody has written it."""
    async with database.write() as connection:
        await blobs.guard(database, connection, key)
        gone = not await blobs.referenced(connection, [key]) and await asyncio.to_thread(store.remove_old, key, before)
        await blobs.tie(connection, [key])  # gone, or needed after all
        return gone


async def _needed(store: Jobs, database: Database, before: float, *, dry_run: bool) -> set[str]:
    """Blobs that the objects of unfinished jobs name, or of jobs and uploads the database does not know."""
    needed: set[str] = set()
    async for found in _listed(store.store, keys.JOBS):
        needed |= await _needed_by_jobs(store, database, found, before, dry_run=dry_run)
    async for found in _listed(store.store, keys.UPLOADS):
        needed |= await _needed_by_uploads(store.store, database, found)
    return needed


async def _needed_by_jobs(
    store: Jobs, database: Database, found: list[Objects], before: float, *, dry_run: bool
) -> set[str]:
    """What the objects of these jobs name, where it counts.

    Of a job that was deleted long ago the bare verdict goes, too, with whatever is left: no worker is still at it.
    """
    ids = [job_id for job_id, _ in found]
    async with database.read() as connection:
        done = await jobs.concluded(connection, ids)
        known = await jobs.present(connection, ids)
    needed: set[str] = set()
    for job_id, infos in found:
        if job_id in done:
            continue
        if job_id not in known and await asyncio.to_thread(_deleted_before, store, job_id, before):
            if not dry_run:
                await asyncio.to_thread(_clear, store, job_id)
        else:
            needed |= await asyncio.to_thread(_named, store.store, infos)
    return needed


async def _needed_by_uploads(store: ObjectStore, database: Database, found: list[Objects]) -> set[str]:
    async with database.read() as connection:
        known = await files.present(connection, [file_id for file_id, _ in found])
    unknown = [info for file_id, infos in found if file_id not in known for info in infos]
    return await asyncio.to_thread(_named, store, unknown)


async def _listed(store: ObjectStore, prefix: str) -> AsyncIterator[list[Objects]]:
    """All jobs or uploads, `TOGETHER` at a time."""
    every = _by_id(store, prefix)
    while some := await asyncio.to_thread(lambda: list(islice(every, TOGETHER))):
        yield some


def _older(store: ObjectStore, prefix: str, before: float) -> dict[str, ObjectInfo]:
    return {info.key: info for info in store.list(prefix) if info.modified_at < before}


def _by_id(store: ObjectStore, prefix: str) -> Iterator[Objects]:
    """Each job or upload once, as its objects are listed together."""
    small = (info for info in store.list(prefix) if info.size <= MAX_WORD)
    for one, infos in groupby(small, key=lambda info: info.key.split("/")[1].removesuffix(".json")):
        yield one, list(infos)


def _deleted_before(store: Jobs, job_id: str, before: float) -> bool:
    verdict = store.store.head(keys.final(job_id))
    try:
        return verdict is not None and verdict.modified_at < before and _is_bare(store.final(job_id))
    except RecordUnreadable:
        return False


def _clear(store: Jobs, job_id: str) -> None:
    """Remove what is left of a deleted job, the verdict last."""
    store.forget(job_id)
    store.store.delete(keys.final(job_id))


def _is_bare(final: Final | None) -> bool:
    return final is not None and final.bare


def _named(store: ObjectStore, infos: list[ObjectInfo]) -> set[str]:
    return {keys.blob(digest.decode()) for data in _contents(store, infos) for digest in DIGEST.findall(data)}


def _contents(store: ObjectStore, infos: list[ObjectInfo]) -> Iterator[bytes]:
    for info in infos:
        try:
            yield store.get(info.key)[0]
        except ObjectMissing:  # the job was deleted meanwhile
            continue
