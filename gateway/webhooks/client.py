"""One attempt to tell a receiver."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType

import aiohttp
from aiohttp.abc import AbstractResolver

from gateway.webhooks.guard import Guard, RefusedAddressError

USER_AGENT = "T2M-Webhooks/1"
MAX_PAUSE_S = 3600
"""A receiver may ask for a longer pause than this, but does not get it."""
BUSY = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}


@dataclass(frozen=True)
class Answer:
    """How an attempt went.

    Attributes:
        status: None without an answer.
        error: None when the message was taken.
        pause_s: for how long the receiver asked to be left alone.
    """

    status: int | None = None
    error: str | None = None
    pause_s: float = 0.0


class Client:
    """Posts messages; an async context manager, as it keeps connections.

    A receiver has to answer 2xx in time. Redirects are not followed, and of the body nothing is read.
    """

    def __init__(self, guard: Guard, timeout_s: float) -> None:
        self._guard, self._timeout_s = guard, timeout_s
        self._session: aiohttp.ClientSession
        self._resolver: AbstractResolver

    async def __aenter__(self) -> Client:
        self._resolver = self._guard.resolver()
        connector = aiohttp.TCPConnector(
            limit=0,  # the sender bounds what is under way
            resolver=self._resolver,
            use_dns_cache=False,
            socket_factory=self._guard.open,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": USER_AGENT, "Content-Type": "application/json"},
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            auto_decompress=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
        await self._resolver.close()

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> Answer:
        """Send a message. Never raises for what a receiver, its name or its address does."""
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                return _answer(response)
        except TimeoutError:
            return Answer(error=f"No answer within {self._timeout_s:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(error=_reason(error))


def _answer(response: aiohttp.ClientResponse) -> Answer:
    status = response.status
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return Answer(status)
    note = " (redirects are not followed)" if "Location" in response.headers else ""
    asked = response.headers.get("Retry-After", "")
    pause_s = min(int(asked), MAX_PAUSE_S) if status in BUSY and re.fullmatch(r"[0-9]{1,9}", asked) else 0
    return Answer(status, f"The receiver answered {status}{note}", pause_s)


def _reason(error: Exception) -> str:
    """Why there was no answer, for the owner of the webhook."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "The host name cannot be resolved"
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError() | ssl.SSLError():
            return "TLS failed: the certificate or protocol is not accepted"
        case aiohttp.ClientConnectorError() if isinstance(error.os_error, RefusedAddressError):
            return f"Not called: {error.os_error}"
        case aiohttp.ClientConnectorError():
            return f"Cannot connect: {error.os_error.strerror or error.os_error}"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return "The receiver closed the connection without an answer"
    return f"No valid answer: {type(error).__name__}"
