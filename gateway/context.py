"""What handlers share."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from aiohttp import web

from config.catalogue import Catalogue
from config.settings import Settings
from gateway.auth.base import Authenticator, Principal
from gateway.auth.tokens import Tokens
from gateway.cache import Cache
from gateway.database.blobs import Shared
from gateway.database.engine import Database
from gateway.database.lookup import Lookup
from gateway.feeds import Feeds
from gateway.files.signed import SignedUrls
from gateway.health import Health
from gateway.hls import StreamTokens
from gateway.inspection.inspector import Inspector
from gateway.ledger import Ledger
from gateway.limits.limiter import Limiter
from gateway.machine import Machine
from gateway.media import Media
from gateway.metrics import Metrics
from gateway.news import News
from gateway.outlook import Fresh, Outlook
from gateway.registration import Registrar
from gateway.traffic import Traffic
from gateway.webhooks.guard import Guard
from pipeline.bus.base import EventSubscriber
from pipeline.jobs import Jobs
from pipeline.safety import Safety


@dataclass
class Gateway:
    """The parts of one gateway.

    Attributes:
        wake: set to make the dispatcher look at once.
        due: set to make the sender of webhook messages look at once.
        shared: to be renewed for each who asks; it takes long, so one question at a time answers all who wait.
        control: tells workers of cancellations; nothing is read from it.
        arriving: bytes of uploads that are just being read, by user.
        repeated: as `arriving`, of those whose `Idempotency-Key` was used, and which take nothing of the quota.
    """

    settings: Settings
    catalogue: Catalogue
    database: Database
    lookup: Lookup
    store: Jobs
    authenticator: Authenticator
    tokens: Tokens
    metrics: Metrics
    media: Media
    health: Health
    provider_health: Health
    limiter: Limiter
    registrar: Registrar
    cache: Cache
    ledger: Ledger
    news: News
    feeds: Feeds
    outlook: Outlook
    shared: Fresh[Shared]
    safety: Safety | None
    stream_tokens: StreamTokens
    signed_urls: SignedUrls
    inspector: Inspector
    control: EventSubscriber
    guard: Guard
    machine: Machine = field(default_factory=Machine)
    traffic: Traffic = field(default_factory=Traffic)
    arriving: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    due: asyncio.Event = field(default_factory=asyncio.Event)


GATEWAY: web.AppKey[Gateway] = web.AppKey("gateway", Gateway)
PRINCIPAL: web.RequestKey[Principal] = web.RequestKey("principal", Principal)
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
