"""Tokens of any OpenID Connect issuer, checked with the keys its discovery document names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jwt

from config.settings import AuthSettings
from gateway.auth.base import (
    Principal,
    Profile,
    Role,
    TokenExpiredError,
    TokenInvalidError,
    check_user,
    claimed_profile,
    claimed_scope,
)
from gateway.auth.http import Client, ProviderError, Unknown
from gateway.auth.jwks import ALGORITHMS, KeySet

CLAIMS = ["iss", "sub", "iat", "exp"]
DISCOVERY = "/.well-known/openid-configuration"


class OidcAuthenticator:
    """Checks tokens by issuer, audience, time and signature; what they say of their user is the profile."""

    name = "oidc"

    def __init__(self, settings: AuthSettings) -> None:
        self._settings = settings
        self.client = Client()
        self._keys = KeySet(self.fetch_keys)

    async def authenticate(self, token: str) -> Principal:
        """See `Authenticator.authenticate`; the algorithm is that of the key, whatever the token's header says."""
        key = await self._keys.key(token)
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                issuer=self._settings.issuer,
                audience=self._settings.audience or None,
                leeway=self._settings.leeway_s,
                options={"require": CLAIMS, "verify_aud": bool(self._settings.audience)},
            )
            self.check(claims)
            return Principal(check_user(claims["sub"]), self._role(claims), claimed_scope(claims), claims)
        except jwt.ExpiredSignatureError as error:
            raise TokenExpiredError from error
        except (jwt.PyJWTError, ValueError) as error:
            raise TokenInvalidError from error

    def check(self, claims: Mapping[str, Any]) -> None:
        """What a provider asks beyond the standard. Raises ValueError."""
        parties = self._settings.authorized_parties
        if parties and claims.get("azp") not in parties:
            raise ValueError("a token for another application")

    async def profile(self, principal: Principal) -> Profile:
        """See `Authenticator.profile`."""
        return claimed_profile(principal)

    async def fetch_keys(self) -> Mapping[str, Any]:
        """The key set. Raises `ProviderError`."""
        try:
            found = await self.client.get(self._settings.issuer.rstrip("/") + DISCOVERY)
            if found.get("issuer") != self._settings.issuer:
                raise ProviderError("The discovery document is that of another issuer.")
            return await self.client.get(str(found.get("jwks_uri", "")))
        except Unknown as error:
            raise ProviderError("The issuer has no discovery document or no keys.") from error

    async def ping(self) -> None:
        """See `Authenticator.ping`; the keys it gets are kept."""
        await self._keys.refresh()

    async def close(self) -> None:
        """See `Authenticator.close`."""
        await self.client.close()

    def _role(self, claims: Mapping[str, Any]) -> Role:
        """ADMIN if the configured claim, a name or a list of names, says so."""
        said: object = claims
        for step in self._settings.role_claim.split("."):
            said = said.get(step) if isinstance(said, Mapping) else None
        names = said if isinstance(said, list) else [said]
        return Role.ADMIN if self._settings.admin_role in names else Role.USER
