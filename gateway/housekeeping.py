"""Removes what has expired."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import NamedTuple

import structlog

from gateway import idempotency, lifecycle
from gateway.context import Gateway
from gateway.database import allowances, files, jobs, workers
from gateway.database import idempotency as keys
from gateway.files import library
from gateway.limits.policy import WINDOW
from pipeline.vocabulary import now

log = structlog.get_logger(__name__)

EVERY_S = 60.0
SILENT = timedelta(days=1)
"""After which a worker is forgotten."""
AT_ONCE = 100
"""Jobs removed before others may write."""


class Expired(NamedTuple):
    """How many were removed."""

    jobs: int
    files: int


async def run(gateway: Gateway) -> None:
    """Remove what has expired, every minute until cancelled; several gateways may do it at the same time."""
    while True:
        await asyncio.sleep(EVERY_S)
        while AT_ONCE in await expire(gateway):
            continue


async def expire(gateway: Gateway) -> Expired:
    """Remove expired jobs and files, `AT_ONCE` of each at most, and keys, uses and workers that count no more."""
    async with gateway.database.write() as connection:
        await keys.remove(connection, now() - idempotency.KEPT)
        await allowances.forget(connection, now() - WINDOW)
        await workers.forget(connection, now() - SILENT)
        expired = await jobs.expired(connection, now(), AT_ONCE)
        over = await files.expired(connection, now(), AT_ONCE)
    await library.remove(gateway, over)
    for job_id in expired:
        await lifecycle.delete(gateway, job_id)
    if expired or over:
        log.info("expired jobs and files removed", jobs=len(expired), files=len(over))
    return Expired(len(expired), len(over))
