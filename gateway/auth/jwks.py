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
        self._lock = asyncio.Lock()

    async def key(self, token: str) -> jwt.PyJWK:
        """The key a token names, or the only one there is if it names none.

        Raises:
            TokenInvalidError: there is no such key.
            ProviderError: no key was fetched yet, and the issuer does not answer.
        """
        try:
            kid = jwt.get_unverified_header(token).get("kid")
        except jwt.InvalidTokenError as error:
            raise TokenInvalidError from error
        found = self._find(kid)
        if found is None or self._clock() - self._fetched_at > FRESH_S:
            await self._refresh(self._clock())
            found = self._find(kid)
        if found is None:
            raise TokenInvalidError
        return found

    def _find(self, kid: object) -> jwt.PyJWK | None:
        if kid is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(kid) if isinstance(kid, str) else None

    async def _refresh(self, asked_at: float) -> None:
        """Fetch the keys, unless that was tried a moment ago or while this call waited for its turn."""
        async with self._lock:
            if self._tried_at > asked_at or self._clock() - self._tried_at < APART_S:
                if not self._keys:
                    raise ProviderError("The identity provider's keys cannot be fetched.")
                return
            self._tried_at = self._clock()
            try:
                self._keys = _usable(await self._fetch())
                self._fetched_at = self._clock()
            except ProviderError:
                if not self._keys:
                    raise
                log.warning("keys of the identity provider not fetched; the old ones serve on")


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
