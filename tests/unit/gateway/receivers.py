"""A receiver of webhooks: a real HTTP server that does as it is told."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from config.settings import Settings
from tests.unit.gateway.support import until

SECRET = "your-webhook-secret"


# The document's own code, letter for letter.
# fmt: off
def verify_webhook(payload, signature, secret):
    expected = hmac.new(
        secret.encode('utf-8'),
        payload.encode('utf-8'),
        hashlib.sha256
    ).hexdigest()
    return hmac.compare_digest(f"sha256={expected}", signature)
# fmt: on


@dataclass(frozen=True)
class Received:
    """One request."""

    path: str
    body: str
    headers: dict[str, str]
    payload: dict[str, Any]

    @property
    def event(self) -> str:
        return str(self.payload["event"])

    @property
    def job_id(self) -> str:
        return str(self.payload["data"]["job_id"])


Behave = Callable[[Received], Any]
"""The status to answer with, or an awaitable of it."""


@dataclass
class Receiver:
    """Keeps every request; `behave` decides how each is answered, 200 at first."""

    url: str = ""
    got: list[Received] = field(default_factory=list)
    behave: Behave = lambda received: 200
    headers: dict[str, str] = field(default_factory=dict)

    async def handle(self, request: web.Request) -> web.Response:
        names = {name.lower(): value for name, value in request.headers.items()}
        received = Received(request.path, (await request.text()), names, await request.json())
        self.got.append(received)
        status = self.behave(received)
        return web.Response(status=await status if asyncio.iscoroutine(status) else status, headers=self.headers)

    def events(self, job_id: str) -> list[str]:
        return [received.event for received in self.got if received.job_id == job_id]

    async def reached(self, count: int) -> list[Received]:
        async def there() -> list[Received] | None:
            return self.got if len(self.got) >= count else None

        return await until(there)


@asynccontextmanager
async def running() -> AsyncIterator[Receiver]:
    """A receiver on a free port of 127.0.0.1."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", receiver.handle)
    async with TestServer(app) as server:
        receiver.url = str(server.make_url("/hook"))
        yield receiver


def calling_here(settings: Settings, **webhooks: object) -> Settings:
    """Settings that let the gateway call receivers of this machine, and do not wait long to try again."""
    known = {"allow_http": True, "allowed_networks": ("127.0.0.0/8",), "retries_s": (0.05,) * 3} | webhooks
    section = type(settings.webhooks).model_validate(known)
    return settings.model_copy(update={"webhooks": section})
