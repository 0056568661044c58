"""Puts messages about jobs on their way, in the transaction that changes the jobs."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy.ext.asyncio import AsyncConnection

from config.settings import Settings
from gateway.database import deliveries, webhooks
from gateway.database.deliveries import Draft
from gateway.projection import Projection
from gateway.webhooks import messages
from gateway.webhooks.messages import WebhookEvent

Change = tuple[Projection, Projection]
"""A job's state before and after."""


class Announcer:
    """Used by the ledger, which alone changes what clients see of a job."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def announce(self, connection: AsyncConnection, changes: Mapping[str, Change]) -> None:
        """Store what the receivers of these jobs are to be told; the caller holds the locks of the jobs."""
        told = {job_id: messages.between(*change) for job_id, change in changes.items()}
        told = {job_id: its for job_id, its in told.items() if its}
        if not told:
            return
        drafts = [
            Draft(
                listener.webhook_id,
                listener.job_id,
                message.rank,
                message.event,
                messages.body(self._settings, message, listener.job_id, listener.job_type),
            )
            for listener in await webhooks.listening(connection, told)
            for message in told[listener.job_id]
            if message.event in listener.events and not (listener.shared and message.event is WebhookEvent.STARTED)
        ]
        await deliveries.add(connection, drafts)
