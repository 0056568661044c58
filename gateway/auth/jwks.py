"""The public keys of an issuer: kept in memory, fetched again when they may have changed, never once per request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import jwt
import structlog

from gateway.auth.base import TokenInvalidError
from gateway.auth.http import ProviderError

log = structlog.get_logger(__name__)

FRESH_S = 3600.0
"""Keys are fetched again after this, so that withdrawn ones go; while the issuer is away, the old ones serve on."""
APART_S = 30.0
"""Least time between two fetches: tokens with invented key ids cannot make the gateway ask the issuer more often."""
RETRY_S = 2.0
"""The same after a fetch that failed."""
KINDS = {"RSA", "EC", "OKP"}
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Only those with a public key: a shared secret would let everybody who verifies tokens make some."""

Fetch = Callable[[], Awaitable[Mapping[str, Any]]]


class KeySet:
    """The issuer's keys by id; `fetch` gets its JSON Web Key Set."""

    def __init__(self, fetch: Fetch, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch, self._clock = fetch, clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._tried_at = self._fetched_at = float("-inf")
        self._away = False
        self._fetching: asyncio.Task[None] | None = None

    async def key(self, token: str) -> jwt.PyJWK:
        """The key a token names, or the only one there is if it names none.

        Raises:
            TokenInvalidError: there is no such key.
            ProviderError: no such key is known, and the issuer does not answer.
        """
        try:
            kid = jwt.get_unverified_header(token).get("kid")
        except jwt.InvalidTokenError as error:
            raise TokenInvalidError from error
        found = self._find(kid)
        stale = self._clock() - self._fetched_at > FRESH_S
        if (found is None or stale) and self._may_fetch():
            self._tried_at = self._clock()
            fetching = self._fetch_once()
            if found is None or not self._away:  # nobody waits for an issuer that is away, but who needs it
                await asyncio.shield(fetching)
                found = self._find(kid)
        if found is None:
            raise self._unreachable() if self._away else TokenInvalidError
        return found

    async def refresh(self) -> None:
        """Fetch the keys, whenever that was done last; it keeps no token from asking. Raises `ProviderError`."""
        await asyncio.shield(self._fetch_once())
        if self._away:
            raise self._unreachable()

    def _find(self, kid: object) -> jwt.PyJWK | None:
        if kid is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(kid) if isinstance(kid, str) else None

    def _may_fetch(self) -> bool:
        """Whether a fetch is under way, or the last one for a token long enough ago."""
        apart = RETRY_S if self._away else APART_S
        under_way = self._fetching is not None and not self._fetching.done()
        return under_way or self._clock() - self._tried_at >= apart

    def _fetch_once(self) -> asyncio.Task[None]:
        """The fetch under way, or else a new one."""
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.create_task(self._fetch_keys())
        return self._fetching

    async def _fetch_keys(self) -> None:
        try:
            self._keys = _usable(await self._fetch())
            self._fetched_at, self._away = self._clock(), False
        except ProviderError as error:
            self._away = True
            log.warning("keys of the identity provider not fetched; the old ones serve on", error=str(error))

    @staticmethod
    def _unreachable() -> ProviderError:
        return ProviderError("The identity provider's keys cannot be fetched.")


def _usable(document: Mapping[str, Any]) -> dict[str, jwt.PyJWK]:
    """Public signing keys by id. Raises `ProviderError` if there is none."""
    keys = document.get("keys")
    found = {}
    for entry in keys if isinstance(keys, list) else []:
        if isinstance(entry, dict) and entry.get("kty") in KINDS and entry.get("use", "sig") == "sig":
            try:
                found[str(entry.get("kid", ""))] = jwt.PyJWK(entry)
            except jwt.PyJWTError as error:
                log.warning("a key of the identity provider is not usable", kid=entry.get("kid"), error=str(error))
    if not found:
        raise ProviderError("The identity provider's key set holds no key to check tokens with.")
    return found
