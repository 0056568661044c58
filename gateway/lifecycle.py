"""Ends jobs before their time, and removes them."""

from __future__ import annotations

import asyncio

import structlog

from gateway.context import Gateway
from gateway.database import accesses, jobs
from gateway.ids import video_of
from pipeline.errors import BrokerError
from pipeline.vocabulary import Final

log = structlog.get_logger(__name__)

BROADCAST_S = 2.0
"""How long a cancellation waits for the broker: workers notice by themselves a second later."""


async def cancel(gateway: Gateway, job_id: str, user_id: str) -> Final:
    """Cancel a job on behalf of its owner; returns the verdict that stands, which may be an older one.

    First no dispatcher takes it any more, then the store decides, then everybody is told. A gateway that dies in
    between leaves a mark, by which the cancellation is finished later (`Projector.repair`).
    """
    async with gateway.database.write() as connection:
        await jobs.begin_cancelling(connection, job_id)
    final = await asyncio.to_thread(gateway.store.cancel, job_id, user_id)
    await gateway.ledger.enter([], {job_id: final})
    gateway.wake.set()
    try:
        async with asyncio.timeout(BROADCAST_S):
            await gateway.control.broadcast_cancel(job_id)
    except (BrokerError, TimeoutError) as error:
        log.warning("cancellation not broadcast", job_id=job_id, error=str(error))
    return final


async def delete(gateway: Gateway, job_id: str) -> None:
    """Remove a job that has a verdict: first from the store, so that one which is not listed has left nothing there.

    Its blobs stay until a sweep finds that nothing refers to them.
    """
    await asyncio.to_thread(gateway.store.forget, job_id)
    async with gateway.database.write() as connection:
        await jobs.remove(connection, job_id)
        await accesses.forget(connection, video_of(job_id))
