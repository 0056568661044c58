"""Checks each token once, not with every request."""

from __future__ import annotations

import time
from hashlib import sha256

from cachetools import FIFOCache

from gateway.auth.base import Authenticator, Principal

SECONDS = 30.0
"""A key that was withdrawn is honoured for so long more, in tokens that were seen before."""
TOKENS = 10_000


class Tokens:
    """Remembers good tokens, by their digests, for a moment that ends no later than they do."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self._known: FIFOCache[bytes, tuple[Principal, float]] = FIFOCache(TOKENS)

    async def principal(self, token: str) -> Principal:
        """As `Authenticator.authenticate`, mostly without asking it."""
        digest = sha256(token.encode(errors="surrogateescape")).digest()
        principal, until = self._known.get(digest, (None, 0.0))
        if principal is None or time.time() >= until:
            principal = await self._authenticator.authenticate(token)
            self._known[digest] = principal, min(time.time() + SECONDS, float(principal.claims["exp"]))
        return principal
