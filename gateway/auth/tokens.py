"""Checks each token once, not with every request."""

from __future__ import annotations

import time
from hashlib import sha256

from cachetools import TLRUCache

from gateway.auth.base import Authenticator, Principal

SECONDS = 30.0
"""A key that was withdrawn is honoured for so long more, in tokens that were seen before."""
TOKENS = 10_000


class Tokens:
    """Remembers good tokens, by their digests, for a moment that ends no later than they do."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self._known: TLRUCache[bytes, Principal] = TLRUCache(TOKENS, _until, time.time)

    async def principal(self, token: str) -> Principal:
        """As `Authenticator.authenticate`, mostly without asking it."""
        digest = sha256(token.encode(errors="surrogateescape")).digest()
        known = self._known.get(digest)
        if known is None:
            known = self._known[digest] = await self._authenticator.authenticate(token)
        return known


def _until(_digest: bytes, principal: Principal, at: float) -> float:
    return min(at + SECONDS, float(principal.claims["exp"]))
