"""Delivers messages to receivers: at least once, in the order of each job, each receiver at its own pace."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from http import HTTPStatus

import structlog
from sqlalchemy.exc import SQLAlchemyError

from config.settings import WebhookSettings
from gateway.database import deliveries, webhooks
from gateway.database.deliveries import Attempt, Claimed, DeliveryStatus, Lane
from gateway.database.engine import Database
from gateway.metrics import Metrics
from gateway.webhooks.client import Answer, Client
from gateway.webhooks.guard import Guard
from gateway.webhooks.signing import headers
from pipeline.vocabulary import now

log = structlog.get_logger(__name__)

POLL_S = 1.0
"""Other gateways put messages on their way too, and pauses end."""
GATHER_S = 0.05
"""Between two looks at least, however much news there is."""
JITTER = 0.2
"""Pauses are up to this share longer, so that what failed together is not tried together."""
FORGET_EVERY_S = 3600.0
FORGET_AT_ONCE = 1000
"""Deliveries removed from the log before others may write."""
GONE = "The receiver answered 410 Gone"


class Sender:
    """Claims what is due in one short transaction, sends outside of any, and stores how it went in another.

    Any number of gateways may run one. A sender that dies leaves leases that run out, so a message may arrive twice;
    receivers know it by its `webhook-id`.

    Args:
        due: set when there may be something to send.
    """

    def __init__(
        self, settings: WebhookSettings, database: Database, guard: Guard, metrics: Metrics, due: asyncio.Event
    ) -> None:
        self._settings, self._database, self._guard = settings, database, guard
        self._metrics, self._due = metrics, due
        self._running: dict[asyncio.Task[None], Claimed] = {}

    async def run(self) -> None:
        """Deliver until cancelled; what is under way then is left to others."""
        async with Client(self._guard, self._settings.timeout_s) as client:
            try:
                while True:
                    self._due.clear()
                    for claimed in await self._claim():
                        self._start(client, claimed)
                    await self._wait()
            finally:
                await self._abandon()

    async def forget(self) -> None:
        """Keep the log as long as the settings say, until cancelled."""
        while True:
            await asyncio.sleep(FORGET_EVERY_S)
            await self._forget()

    async def _forget(self) -> None:
        before, forgotten = now() - timedelta(days=self._settings.keep_days), FORGET_AT_ONCE
        while forgotten == FORGET_AT_ONCE:
            async with self._database.write() as connection:
                forgotten = await deliveries.forget(connection, before, FORGET_AT_ONCE)

    async def _claim(self) -> Sequence[Claimed]:
        room = self._settings.concurrency - len(self._running)
        if room <= 0:
            return ()
        async with self._database.read() as connection:
            if not await deliveries.any_due(connection):
                return ()
        busy: Counter[Lane] = Counter(claimed.lane for claimed in self._running.values())
        lease = timedelta(seconds=self._settings.timeout_s + self._settings.lease_s)
        async with self._database.write() as connection:
            return await deliveries.claim(connection, room, self._settings.per_receiver, busy, lease)

    def _start(self, client: Client, claimed: Claimed) -> None:
        task = asyncio.create_task(self._deliver(client, claimed))
        self._running[task] = claimed

    async def _wait(self) -> None:
        """Until something may be due or one attempt has ended. Raises what nobody foresaw in one."""
        waiting = asyncio.create_task(self._due.wait())
        try:
            await asyncio.wait({waiting, *self._running}, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        await asyncio.sleep(GATHER_S)
        for task in [task for task in self._running if task.done()]:
            del self._running[task]
            task.result()

    async def _abandon(self) -> None:
        running, self._running = self._running, {}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if running:
            with suppress(SQLAlchemyError, OSError):  # else the leases run out
                async with self._database.write() as connection:
                    await deliveries.release(connection, running.values())

    async def _deliver(self, client: Client, claimed: Claimed) -> None:
        at, began = now(), time.perf_counter()
        body = claimed.body.encode()
        answer = await client.post(claimed.url, body, headers(claimed.message_id, at, body, claimed.keys))
        seconds = time.perf_counter() - began
        attempt = Attempt(claimed.attempts + 1, at, round(seconds, 3), answer.status, answer.error)
        self._metrics.webhook_latency.observe(seconds)
        try:
            status = await self._note(claimed, attempt, answer)
        except (SQLAlchemyError, OSError) as error:  # the lease runs out, then it is sent again
            log.warning("delivery not stored", delivery_id=claimed.id, error=repr(error))
            return
        self._metrics.webhook_attempts.labels("delivered" if answer.error is None else "failed").inc()
        log.info(
            "webhook",
            webhook_id=claimed.webhook_id,
            delivery_id=claimed.id,
            webhook_event=claimed.event,
            attempt=attempt.number,
            response_status=answer.status,
            error=answer.error,
            outcome=status,
        )

    async def _note(self, claimed: Claimed, attempt: Attempt, answer: Answer) -> DeliveryStatus | None:
        gone = answer.status == HTTPStatus.GONE
        retry_at = None if gone else self._retry_at(attempt.number, answer.pause_s)
        async with self._database.write() as connection:
            if gone:
                await webhooks.disable(connection, claimed.webhook_id, GONE)
            status = await deliveries.note(connection, claimed, attempt, retry_at)
            if gone:
                await deliveries.give_up(connection, claimed.webhook_id)
        return status

    def _retry_at(self, attempts: int, asked_s: float) -> datetime | None:
        """When to try again after so many attempts; None: never."""
        pauses = self._settings.retries_s
        if attempts > len(pauses):
            return None
        pause_s = max(pauses[attempts - 1], asked_s)
        return now() + timedelta(seconds=pause_s * (1 + random.uniform(0, JITTER)))  # noqa: S311 - no secret
