"""Who gets in, and what the others are told."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from config.errors import ConfigError
from config.settings import Settings
from gateway.auth.base import Principal, Role, TokenExpiredError, TokenInvalidError
from gateway.auth.local import LocalAuthenticator
from pipeline.vocabulary import now
from tests.unit.gateway.support import API, World
from tests.unit.gateway.test_api import UNKNOWN, error


@pytest.fixture
def local(tmp_path: Path) -> LocalAuthenticator:
    return LocalAuthenticator(tmp_path / "key.pem")


async def test_a_token_speaks_for_its_user(local: LocalAuthenticator) -> None:
    assert await local.authenticate(local.issue("ada")) == Principal("ada", Role.USER)
    assert (await local.authenticate(local.issue("root", Role.ADMIN))).role is Role.ADMIN


async def test_the_key_is_private_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key.pem"
    token = LocalAuthenticator(path).issue("ada")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (await LocalAuthenticator(path).authenticate(token)).user_id == "ada"
    assert list(path.parent.iterdir()) == [path]


async def test_of_many_that_make_the_key_at_once_one_wins(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: LocalAuthenticator(tmp_path / "key.pem"), range(8)))
    tokens = [one.issue("ada") for one in made]
    assert {(await one.authenticate(token)).user_id for one in made for token in tokens} == {"ada"}


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_broken_key_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"key\.pem"):
        LocalAuthenticator(path)


async def test_expired_is_told_apart(local: LocalAuthenticator) -> None:
    with pytest.raises(TokenExpiredError):
        await local.authenticate(local.issue("ada", expires=timedelta(seconds=-1)))


async def test_clocks_may_differ_a_little(t2m_settings: Callable[..., Settings]) -> None:
    """As those of a machine that issues tokens by `t2m token` and of one that checks them."""
    local = LocalAuthenticator.open(t2m_settings(auth={"leeway_s": 5}))
    at = now()
    claims = {"iss": "t2m", "aud": "t2m", "sub": "ada", "role": "USER", "iat": at, "exp": at + timedelta(hours=1)}

    def token(**changes: object) -> str:
        return jwt.encode(claims | changes, local._key, algorithm="EdDSA")

    await local.authenticate(token(iat=at + timedelta(seconds=3)))
    await local.authenticate(token(exp=at - timedelta(seconds=2)))
    with pytest.raises(TokenInvalidError):
        await local.authenticate(token(iat=at + timedelta(seconds=20)))
    with pytest.raises(TokenExpiredError):
        await local.authenticate(token(exp=at - timedelta(seconds=20)))


def part(content: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def forged(local: LocalAuthenticator, **changes: object) -> list[str]:
    """Tokens that must not pass: other keys, algorithms and claims."""
    at = now()
    claims = {"iss": "t2m", "aud": "t2m", "sub": "ada", "role": "ADMIN", "iat": at, "exp": at + timedelta(hours=1)}
    stranger = Ed25519PrivateKey.generate()
    public = local._public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    plain = {name: str(value) for name, value in claims.items()} | {"exp": 4102444800, "iat": 1}
    own = {name: jwt.encode(claims | change, local._key, algorithm="EdDSA") for name, change in {
        "aud": {"aud": "other"}, "iss": {"iss": "other"}, "role": {"role": "GOD"}, "sub": {"sub": ""},
        "long": {"sub": "x" * 256}, "nul": {"sub": "a\x00"},
        "future": {"iat": at + timedelta(hours=1)}, "nbf": {"nbf": at + timedelta(hours=1)},
    }.items()}  # fmt: skip
    lacking = [
        jwt.encode({key: value for key, value in claims.items() if key != name}, local._key, algorithm="EdDSA")
        for name in claims
    ]
    head, body, signature = local.issue("ada").split(".")
    return [
        "", "x", "a.b.c", "é", f"{head}.{body}.", f"{head}.{body}", f"{head}.{part(plain)}.{signature}",
        jwt.encode(claims, stranger, algorithm="EdDSA"),
        f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(plain)}.",
        f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(plain)}.{signature}",
        hmac_token(public, plain),
        jwt.encode(claims, local._key, algorithm="EdDSA", headers={"crit": ["x"], "x": 1}),
        *own.values(), *lacking,
    ]  # fmt: skip


def hmac_token(key: bytes, claims: dict[str, object]) -> str:
    """Algorithm confusion: the public key taken for a shared secret."""
    signed = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}"
    digest = hmac.new(key, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


async def test_forgeries_are_invalid(local: LocalAuthenticator) -> None:
    for token in forged(local):
        with pytest.raises(TokenInvalidError):
            await local.authenticate(token)


async def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    pem = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(pem)
    with pytest.raises(ConfigError, match="Ed25519"):
        LocalAuthenticator(tmp_path / "key.pem")


ENDPOINTS = [
    ("POST", "/videos/generate"),
    *(("GET", f"/videos/{UNKNOWN}/{part}") for part in ("status", "download", "stream", "metadata", "thumbnail")),
    ("GET", f"/jobs/{UNKNOWN}"),
]


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
async def test_every_endpoint_wants_a_token_and_tells_the_three_cases_apart(
    world: World, method: str, path: str
) -> None:
    cases = {
        "": "AUTH_REQUIRED",
        "Basic YWRhOnB3": "AUTH_REQUIRED",
        "Bearer": "AUTH_INVALID",
        "Bearer nonsense": "AUTH_INVALID",
        f"Bearer {world.token(hours=-1)}": "AUTH_EXPIRED",
    }
    for header, code in cases.items():
        headers = {"Authorization": header} if header else {}
        response = await world.client.request(method, API + path, headers=headers)
        await error(response, 401, code)
        assert response.headers["WWW-Authenticate"].startswith("Bearer")


async def test_the_scheme_is_case_insensitive(world: World) -> None:
    response = await world.client.get(f"{API}/jobs/{UNKNOWN}", headers={"Authorization": f"bearer {world.token()}"})
    assert response.status == 404


def test_no_part_of_the_gateway_imports_torch() -> None:
    code = """
import pkgutil, sys, importlib, gateway
for module in pkgutil.walk_packages(gateway.__path__, "gateway."):
    if not module.name.startswith("gateway.database.migrations.env"):
        importlib.import_module(module.name)
found = {"torch", "diffusers", "transformers", "stages", "models"} & set(sys.modules)
sys.exit(f"imported: {sorted(found)}" if found else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
