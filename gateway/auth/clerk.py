"""Clerk: session tokens by its keys, profiles by its backend API."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from config.settings import AuthSettings
from gateway.auth.base import Principal, Profile, TokenInvalidError, text
from gateway.auth.http import ProviderError, Unknown
from gateway.auth.oidc import OidcAuthenticator

KEPT_S = 60.0
KEPT = 10_000
"""Profiles kept in memory, and for how long: what a user changes at Clerk shows after a minute."""


class ClerkAuthenticator(OidcAuthenticator):
    """As any issuer, but that session tokens name neither audience nor e-mail address, and may be pending."""

    name = "clerk"

    def __init__(self, settings: AuthSettings, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(settings)
        self._keys_url = settings.issuer.rstrip("/") + "/.well-known/jwks.json"
        self._users_url = str(settings.clerk_api).rstrip("/") + "/users/"
        self._secret = settings.clerk_secret_key.get_secret_value()
        self._clock = clock
        self._profiles: OrderedDict[str, tuple[float, Profile]] = OrderedDict()

    def check(self, claims: Mapping[str, Any]) -> None:
        """A pending session has steps of the sign-in ahead of it."""
        super().check(claims)
        if claims.get("sts") == "pending":
            raise ValueError("a session whose sign-in is not finished")

    async def profile(self, principal: Principal) -> Profile:
        """See `Authenticator.profile`. Raises `TokenInvalidError` when Clerk no longer knows the user."""
        kept_at, profile = self._profiles.get(principal.user_id, (float("-inf"), None))
        if profile is not None and self._clock() - kept_at < KEPT_S:
            return profile
        try:
            found = await self.client.get(self._users_url + quote(principal.user_id, safe=""), self._secret)
        except Unknown as error:
            raise TokenInvalidError from error
        profile = _profile(principal.user_id, found)
        self._profiles[principal.user_id] = self._clock(), profile
        self._profiles.move_to_end(principal.user_id)
        if len(self._profiles) > KEPT:
            self._profiles.popitem(last=False)
        return profile

    async def fetch_keys(self) -> Mapping[str, Any]:
        """The key set. Raises `ProviderError`."""
        try:
            return await self.client.get(self._keys_url)
        except Unknown as error:
            raise ProviderError("Clerk has no keys under the configured issuer.") from error


def _profile(user_id: str, user: Mapping[str, Any]) -> Profile:
    addresses = user.get("email_addresses") or []
    primary: Mapping[str, Any] = next((one for one in addresses if one["id"] == user["primary_email_address_id"]), {})
    full_name = " ".join(part for name in ("first_name", "last_name") if (part := text(user.get(name))))
    return Profile(
        user_id,
        username=text(user.get("username")),
        full_name=full_name or None,
        email=text(primary.get("email_address")),
        email_verified=(primary.get("verification") or {}).get("status") == "verified",
        image_url=text(user.get("image_url")),
        created_at=_time(user.get("created_at")),
        last_sign_in_at=_time(user.get("last_sign_in_at")),
    )


def _time(milliseconds: object) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if isinstance(milliseconds, int) else None
