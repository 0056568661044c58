"""Asks identity providers for JSON documents."""

from __future__ import annotations

import json
from typing import Any

import aiohttp

from config.errors import Fault, T2MError

TIMEOUT_S = 3.0
MAX_ANSWER = 1 << 20


class ProviderError(T2MError):
    """The identity provider does not answer, or not as it should."""

    fault = Fault.TRANSIENT


class Unknown(Exception):
    """The provider has nothing under that address."""


class Client:
    """One connection pool to a provider; redirects are not followed, as the configured address is the trusted one."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))

    async def get(self, url: str, bearer: str | None = None) -> dict[str, Any]:
        """A JSON object. Raises `Unknown` for 404, else `ProviderError`."""
        headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
        try:
            async with self._session.get(url, headers=headers, allow_redirects=False) as response:
                if response.status == 404:
                    raise Unknown(url)
                if response.status != 200:
                    raise ProviderError(f"The identity provider answers {response.status}.")
                document = json.loads(await _body(response))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ProviderError("The identity provider cannot be reached.") from error
        except ValueError as error:
            raise ProviderError("The identity provider does not answer with JSON.") from error
        if not isinstance(document, dict):
            raise ProviderError("The identity provider does not answer with a JSON object.")
        return document

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for part in response.content.iter_chunked(1 << 16):
        body += part
        if len(body) > MAX_ANSWER:
            raise ProviderError("The identity provider's answer is too long.")
    return bytes(body)
