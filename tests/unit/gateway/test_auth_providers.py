"""Clerk and OpenID Connect, against a stand-in for their servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from config.errors import ConfigError
from config.settings import Settings
from gateway import health
from gateway.auth.base import Principal, Role, TokenExpiredError, TokenInvalidError
from gateway.auth.clerk import ClerkAuthenticator
from gateway.auth.http import ProviderError
from gateway.auth.jwks import APART_S, FRESH_S, RETRY_S, KeySet
from gateway.auth.oidc import OidcAuthenticator
from pipeline.vocabulary import now
from tests.unit.gateway.fixtures import OpenWorld
from tests.unit.gateway.issuer import STRONG, Issuer
from tests.unit.gateway.support import API
from tests.unit.gateway.test_api import error
from tests.unit.gateway.test_auth import hmac_token, part

KEYS = "/.well-known/jwks.json"
PROFILE = "/v1/users/user_12345"
MINUTE = timedelta(minutes=1)


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    await issuer.server.start_server()
    yield issuer
    await issuer.server.close()


@pytest.fixture
async def clerk(issuer: Issuer) -> AsyncIterator[ClerkAuthenticator]:
    clerk = ClerkAuthenticator(issuer.settings("clerk", authorized_parties=["https://app.example.com"]))
    yield clerk
    await clerk.close()


@pytest.fixture
async def oidc(issuer: Issuer) -> AsyncIterator[OidcAuthenticator]:
    oidc = OidcAuthenticator(issuer.settings("oidc", audience=["t2m", "t2m-staging"], role_claim="realm.roles"))
    yield oidc
    await oidc.close()


def clerk_token(issuer: Issuer, **changes: Any) -> str:
    return issuer.token(**({"azp": "https://app.example.com", "sid": "sess_1"} | changes))


async def test_a_session_token_of_clerk(issuer: Issuer, clerk: ClerkAuthenticator) -> None:
    for _ in range(20):
        assert await clerk.authenticate(clerk_token(issuer)) == Principal("user_12345", Role.USER)
    assert issuer.asked == {KEYS: 1}, "no call per request"


async def test_the_profile_comes_from_clerks_backend_api_once_a_minute(issuer: Issuer) -> None:
    at = [0.0]
    clerk = ClerkAuthenticator(issuer.settings("clerk"), clock=lambda: at[0])
    principal = await clerk.authenticate(clerk_token(issuer))
    for _ in range(3):
        profile = await clerk.profile(principal)
    assert (profile.username, profile.full_name, profile.email) == ("john_doe", "John Doe", "john@example.com")
    assert profile.email_verified is True
    assert profile.created_at is not None and profile.created_at.isoformat() == "2024-01-01T00:00:00+00:00"
    at[0] = 61.0
    await clerk.profile(principal)
    assert issuer.asked[PROFILE] == 2
    del issuer.users["user_12345"]
    at[0] = 122.0
    with pytest.raises(TokenInvalidError):
        await clerk.profile(principal)
    await clerk.close()


async def test_clerk_behind_the_whole_gateway(open_world: OpenWorld, settings: Settings, issuer: Issuer) -> None:
    world = await open_world(settings.model_copy(update={"auth": issuer.settings("clerk")}))
    headers = {"Authorization": f"Bearer {clerk_token(issuer)}"}
    me = await (await world.client.get(f"{API}/auth/me", headers=headers)).json()
    assert me == {
        "id": "user_12345",
        "username": "john_doe",
        "full_name": "John Doe",
        "email": "john@example.com",
        "image_url": "https://example.com/avatar.jpg",
        "email_verified": True,
        "created_at": "2024-01-01T00:00:00.000Z",
        "last_sign_in_at": "2024-01-15T10:30:00.000Z",
    }
    assert (await (await world.client.get(f"{API}/auth/health")).json())["clerk"]["status"] == "healthy"
    late = {"Authorization": f"Bearer {clerk_token(issuer, exp=now() - MINUTE)}"}
    await error(await world.client.get(f"{API}/auth/me", headers=late), 401, "AUTH_EXPIRED")
    issuer.users["user_12345"] = issuer.users["user_12345"] | {"email_addresses": []}
    world.gateway.authenticator._profiles.clear()  # type: ignore[attr-defined]
    await error(await world.client.get(f"{API}/auth/test-verified", headers=headers), 403, "PERMISSION_DENIED")
    issuer.down = True
    await asyncio.sleep(health.FRESH_S)  # however many ask, the provider is asked once in that time
    told = await error(await world.client.get(f"{API}/auth/health"), 503, "SERVICE_UNAVAILABLE")
    assert told["details"]["clerk"]["status"] == "unhealthy"
    assert (await world.client.get(f"{API}/auth/test-protected", headers=headers)).status == 200, "keys are in memory"


async def test_an_oidc_token_says_its_profile_and_role(issuer: Issuer, oidc: OidcAuthenticator) -> None:
    said = {"email": "a@example.com", "email_verified": True, "name": "Ada", "preferred_username": "ada"}
    principal = await oidc.authenticate(issuer.token(aud=["other", "t2m"], realm={"roles": ["x", "admin"]}, **said))
    assert principal.role is Role.ADMIN
    profile = await oidc.profile(principal)
    assert (profile.username, profile.full_name, profile.email) == ("ada", "Ada", "a@example.com")
    assert (await oidc.authenticate(issuer.token(aud="t2m-staging", realm="admin"))).role is Role.USER


async def test_clocks_may_differ_a_little(issuer: Issuer, oidc: OidcAuthenticator) -> None:
    await oidc.authenticate(issuer.token(aud="t2m", exp=now() - timedelta(seconds=2)))
    await oidc.authenticate(issuer.token(aud="t2m", iat=now() + timedelta(seconds=2)))
    with pytest.raises(TokenExpiredError):
        await oidc.authenticate(issuer.token(aud="t2m", exp=now() - timedelta(seconds=20)))
    with pytest.raises(TokenInvalidError):
        await oidc.authenticate(issuer.token(aud="t2m", iat=now() + timedelta(seconds=20)))


def attacks(issuer: Issuer) -> dict[str, str]:
    """Tokens that must not pass."""
    plain = {name: str(value) for name, value in issuer.claims(aud="t2m").items()} | {"exp": 4102444800, "iat": 1}
    pem = STRONG[0].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _, _, signature = issuer.token(aud="t2m").split(".")
    other = generate_private_key(SECP256R1())
    return {
        "none": f"{part({'alg': 'none', 'kid': 'first'})}.{part(plain)}.",
        "none with a signature": f"{part({'alg': 'None', 'kid': 'first'})}.{part(plain)}.{signature}",
        "public key as a secret": hmac_token(pem, plain),
        "secret of the key set": issuer.token("shared", "secret-secret-secret-secret-secret", "HS256", aud="t2m"),
        "another's key": issuer.token("first", STRONG[1], aud="t2m"),
        "another algorithm": issuer.token("first", other, "ES256", aud="t2m"),
        "unknown kid": issuer.token("second", STRONG[1], aud="t2m"),
        "path as kid": issuer.token("../../../dev/null", STRONG[1], aud="t2m"),
        "no kid, wrong key": issuer.token(None, STRONG[1], aud="t2m"),
        "own key in the header": issuer.token(
            "first", STRONG[1], aud="t2m", headers={"jwk": issuer.jwks()["keys"][0], "jku": issuer.url}
        ),
        "unknown crit": issuer.token(aud="t2m", headers={"crit": ["exp2"], "exp2": 1}),
        "wrong audience": issuer.token(aud="other"),
        "no audience": issuer.token(),
        "wrong issuer": issuer.token(aud="t2m", iss="https://evil.example.com"),
        "no subject": issuer.token(aud="t2m", sub=None),
        "empty subject": issuer.token(aud="t2m", sub=""),
        "no expiry": issuer.token(aud="t2m", exp=None),
        "not yet": issuer.token(aud="t2m", nbf=now() + MINUTE),
        "permissions that are no list": issuer.token(aud="t2m", permissions="all"),
        "no token": "x",
    }


async def test_attacks_by_token(issuer: Issuer, oidc: OidcAuthenticator) -> None:
    await oidc.authenticate(issuer.token(aud="t2m"))
    for name, token in attacks(issuer).items():
        try:
            await oidc.authenticate(token)
        except TokenInvalidError:
            continue
        pytest.fail(f"passed: {name}")
    assert issuer.asked[KEYS] == 1, "invented key ids make nobody ask the issuer"


@pytest.mark.parametrize("changes", [{"azp": "https://evil.example.com"}, {"azp": None}, {"sts": "pending"}])
async def test_what_clerk_refuses_beyond(issuer: Issuer, clerk: ClerkAuthenticator, changes: dict[str, Any]) -> None:
    with pytest.raises(TokenInvalidError):
        await clerk.authenticate(clerk_token(issuer, **changes))


class Rotation:
    """A key set, its clock, and how often it was fetched."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer, self.at, self.fetched, self.down = issuer, 0.0, 0, False
        self.silent: asyncio.Event | None = None
        self.keys = KeySet(self.fetch, clock=lambda: self.at)

    async def fetch(self) -> dict[str, Any]:
        self.fetched += 1
        if self.silent is not None:
            await self.silent.wait()
        if self.down:
            raise ProviderError("down")
        return self.issuer.jwks()


async def test_keys_are_rotated(issuer: Issuer) -> None:
    rotation = Rotation(issuer)
    old = issuer.token()
    await rotation.keys.key(old)
    issuer.signing = {"second": STRONG[1]}
    new = issuer.token("second")
    rotation.at = APART_S + 1
    assert (await rotation.keys.key(new)).key_id == "second", "a new key is fetched when a token names it"
    with pytest.raises(TokenInvalidError):
        await rotation.keys.key(old)
    assert rotation.fetched == 2


async def test_health_checks_keep_no_new_key_from_being_fetched(issuer: Issuer) -> None:
    rotation = Rotation(issuer)
    await rotation.keys.key(issuer.token())
    rotation.at = APART_S + 1
    await rotation.keys.refresh()
    issuer.signing = {"second": STRONG[1]}
    await rotation.keys.key(issuer.token("second"))
    assert rotation.fetched == 3


async def test_withdrawn_keys_go_within_the_hour_unless_the_issuer_is_away(issuer: Issuer) -> None:
    rotation = Rotation(issuer)
    token = issuer.token()
    await rotation.keys.key(token)
    issuer.signing = {"second": STRONG[1]}
    rotation.at, rotation.down = FRESH_S + 1, True
    await rotation.keys.key(token)
    rotation.at, rotation.down = FRESH_S + RETRY_S + 2, False
    await rotation.keys.key(token)
    await rotation.keys.refresh()
    assert rotation.fetched == 3, "it was asked behind the last token's back"
    with pytest.raises(TokenInvalidError):
        await rotation.keys.key(token)


async def test_nobody_with_a_known_key_waits_for_an_issuer_that_stays_silent(issuer: Issuer) -> None:
    rotation = Rotation(issuer)
    await rotation.keys.key(issuer.token())
    rotation.at, rotation.down = FRESH_S + 1, True
    await rotation.keys.key(issuer.token())
    rotation.at, rotation.silent = rotation.at + APART_S, asyncio.Event()
    async with asyncio.timeout(10):
        for _ in range(3):
            await rotation.keys.key(issuer.token())
    rotation.silent.set()
    with pytest.raises(ProviderError):
        await rotation.keys.refresh()
    assert rotation.fetched == 3


async def test_without_any_key_it_is_the_issuer_who_is_away(issuer: Issuer) -> None:
    rotation = Rotation(issuer)
    rotation.down = True
    for _ in range(3):
        with pytest.raises(ProviderError):
            await rotation.keys.key(issuer.token())
    assert rotation.fetched == 1
    rotation.at, rotation.down = RETRY_S, False
    await rotation.keys.key(issuer.token())


async def test_a_key_that_is_new_while_the_issuer_is_away_is_not_called_wrong(issuer: Issuer) -> None:
    rotation = Rotation(issuer)
    await rotation.keys.key(issuer.token())
    issuer.signing = {"second": STRONG[1]}
    rotation.at, rotation.down = APART_S, True
    for _ in range(2):
        with pytest.raises(ProviderError):
            await rotation.keys.key(issuer.token("second"))
    rotation.at, rotation.down = APART_S + RETRY_S, False
    await rotation.keys.key(issuer.token("second"))


async def test_the_keys_that_a_health_check_gets_are_kept(issuer: Issuer, oidc: OidcAuthenticator) -> None:
    issuer.down = True
    with pytest.raises(ProviderError):
        await oidc.authenticate(issuer.token(aud="t2m"))
    issuer.down = False
    await oidc.ping()
    await oidc.authenticate(issuer.token(aud="t2m"))


@pytest.mark.parametrize(
    "auth",
    [
        {"provider": "oidc", "issuer": "https://id.example.com"},
        {"provider": "clerk", "issuer": "https://clerk.example.com"},
        {"provider": "oidc", "audience": ["t2m"]},
        {"provider": "oidc", "audience": ["t2m"], "issuer": "http://id.example.com"},
    ],
)
def test_settings_that_would_let_too_many_in_are_refused(
    t2m_settings: Callable[..., Settings], auth: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="auth"):
        t2m_settings(auth=auth)
