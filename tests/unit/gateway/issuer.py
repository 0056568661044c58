"""A stand-in for the servers of an identity provider: Clerk's keys and backend API, or an OpenID Connect issuer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import jwt
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from config.settings import AuthSettings
from pipeline.vocabulary import now

SECRET = "sk_test_of_the_stand_in"
USER = {
    "id": "user_12345",
    "username": "john_doe",
    "first_name": "John",
    "last_name": "Doe",
    "image_url": "https://example.com/avatar.jpg",
    "primary_email_address_id": "idn_2",
    "email_addresses": [
        {"id": "idn_1", "email_address": "old@example.com", "verification": {"status": "unverified"}},
        {"id": "idn_2", "email_address": "john@example.com", "verification": {"status": "verified"}},
    ],
    "created_at": 1704067200000,
    "last_sign_in_at": 1705314600000,
}
STRONG = [rsa.generate_private_key(65537, 2048) for _ in range(3)]
"""Made once, as that takes long."""


class Issuer:
    """Serves the keys of `signing`, counts what it is asked, and signs tokens."""

    def __init__(self) -> None:
        app = web.Application(middlewares=[self._count])
        app.router.add_get("/.well-known/jwks.json", self._jwks)
        app.router.add_get("/.well-known/openid-configuration", self._discovery)
        app.router.add_get("/v1/users/{id}", self._user)
        self.server = TestServer(app)
        self.signing = {"first": STRONG[0]}
        self.asked: Counter[str] = Counter()
        self.users = {"user_12345": USER}
        self.down = False

    @property
    def url(self) -> str:
        return str(self.server.make_url("")).rstrip("/")

    def settings(self, provider: str, **more: Any) -> AuthSettings:
        known = {"issuer": self.url, "clerk_api": f"{self.url}/v1", "clerk_secret_key": SECRET}
        return AuthSettings.model_validate({"provider": provider} | known | more)

    def claims(self, **changes: Any) -> dict[str, Any]:
        known = {"iss": self.url, "sub": "user_12345", "iat": now(), "exp": now() + timedelta(minutes=1)}
        return {name: value for name, value in (known | changes).items() if value is not None}

    def token(self, kid: str | None = "first", key: Any = None, algorithm: str = "RS256", **changes: Any) -> str:
        headers = changes.pop("headers", {}) | ({} if kid is None else {"kid": kid})
        signing = self.signing.get(kid or "first", STRONG[2]) if key is None else key
        return jwt.encode(self.claims(**changes), signing, algorithm=algorithm, headers=headers)

    def jwks(self) -> dict[str, Any]:
        keys = [self._public(kid, key) for kid, key in self.signing.items()]
        return {"keys": [*keys, {"kty": "oct", "kid": "shared", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXM"}, 7]}

    @staticmethod
    def _public(kid: str, key: rsa.RSAPrivateKey) -> Mapping[str, Any]:
        return json.loads(RSAAlgorithm.to_jwk(key.public_key())) | {"kid": kid, "use": "sig", "alg": "RS256"}

    @web.middleware
    async def _count(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.asked[request.path] += 1
        if self.down:
            raise web.HTTPBadGateway
        return await handler(request)

    async def _jwks(self, request: web.Request) -> web.Response:
        return web.json_response(self.jwks())

    async def _discovery(self, request: web.Request) -> web.Response:
        return web.json_response({"issuer": self.url, "jwks_uri": f"{self.url}/.well-known/jwks.json"})

    async def _user(self, request: web.Request) -> web.Response:
        if request.headers["Authorization"] != f"Bearer {SECRET}":
            raise web.HTTPUnauthorized
        if request.match_info["id"] not in self.users:
            raise web.HTTPNotFound
        return web.json_response(self.users[request.match_info["id"]])
