"""Removes what has expired."""

from __future__ import annotations

import asyncio

import structlog

from gateway import idempotency, lifecycle
from gateway.context import Gateway
from gateway.database import idempotency as keys
from gateway.database import jobs
from pipeline.vocabulary import now

log = structlog.get_logger(__name__)

EVERY_S = 60.0
AT_ONCE = 100
"""Jobs removed before others may write."""


async def run(gateway: Gateway) -> None:
    """Remove what has expired, every minute until cancelled; several gateways may do it at the same time."""
    while True:
        await asyncio.sleep(EVERY_S)
        while await expire(gateway) == AT_ONCE:
            continue


async def expire(gateway: Gateway) -> int:
    """Remove expired jobs, `AT_ONCE` at most, and old idempotency keys; returns how many jobs."""
    async with gateway.database.write() as connection:
        await keys.remove(connection, now() - idempotency.KEPT)
        expired = await jobs.expired(connection, now(), AT_ONCE)
    for job_id in expired:
        await lifecycle.delete(gateway, job_id)
    if expired:
        log.info("expired jobs removed", count=len(expired))
    return len(expired)
