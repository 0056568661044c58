"""Tokens that T2M issues itself: JWTs signed with an Ed25519 key of this installation.

`t2m token` issues them; every gateway that has the key accepts them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from config.errors import ConfigError
from config.settings import Settings
from gateway.auth.base import (
    Permission,
    Principal,
    Profile,
    Role,
    TokenExpiredError,
    TokenInvalidError,
    check_user,
    claimed_profile,
    claimed_scope,
)
from pipeline.vocabulary import now

ALGORITHM = "EdDSA"
ISSUER = AUDIENCE = "t2m"
CLAIMS = ["sub", "role", "iat", "exp"]
KEY_FILE = "auth-key.pem"


class LocalAuthenticator:
    """Issues and checks tokens with one private key.

    Args:
        key_file: PEM (PKCS 8) of an Ed25519 key, readable by its owner alone; made if there is none.
        leeway_s: how far the clock of a machine that issues tokens may be off.

    Raises:
        ConfigError: the file cannot be read or written, or holds no Ed25519 key.
    """

    name = "local"

    def __init__(self, key_file: Path, leeway_s: float = 0.0) -> None:
        self._leeway_s = leeway_s
        self._key = _load_or_make(key_file)
        self._public = self._key.public_key()

    @classmethod
    def open(cls, settings: Settings) -> LocalAuthenticator:
        """With the key of a deployment: the file the settings name, else one in the data folder."""
        return cls(settings.auth.key_file or settings.data_dir / KEY_FILE, settings.auth.leeway_s)

    def issue(
        self,
        user: str,
        role: Role = Role.USER,
        expires: timedelta = timedelta(hours=1),
        *,
        email: str | None = None,
        permissions: Collection[Permission] | None = None,
    ) -> str:
        """A token for `user` (at most `MAX_USER` characters), whose e-mail counts as verified.

        Args:
            permissions: all the token may do; None for all that the role may.
        """
        at = now()
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": user, "iat": at, "exp": at + expires, "role": role}
        said = {"email": email, "permissions": None if permissions is None else list(permissions)}
        claims |= {name: value for name, value in said.items() if value is not None}
        return jwt.encode(claims | {"email_verified": True}, self._key, algorithm=ALGORITHM)

    async def authenticate(self, token: str) -> Principal:
        """See `Authenticator.authenticate`. The algorithm is ours, whatever the token's header says."""
        try:
            claims = jwt.decode(
                token,
                self._public,
                algorithms=[ALGORITHM],
                issuer=ISSUER,
                audience=AUDIENCE,
                leeway=self._leeway_s,
                options={"require": CLAIMS},
            )
            return _principal(claims)
        except jwt.ExpiredSignatureError as error:
            raise TokenExpiredError from error
        except (jwt.InvalidTokenError, ValueError) as error:
            raise TokenInvalidError from error

    async def profile(self, principal: Principal) -> Profile:
        """See `Authenticator.profile`: what the token says, as nobody keeps accounts here."""
        known = claimed_profile(principal)
        return replace(known, username=known.username or principal.user_id)

    async def ping(self) -> None:
        """See `Authenticator.ping`: the key is in memory."""

    async def close(self) -> None:
        """See `Authenticator.close`: there is nothing to release."""


def _principal(claims: dict[str, Any]) -> Principal:
    return Principal(check_user(claims["sub"]), Role(claims["role"]), claimed_scope(claims), claims)


def deployment_key(settings: Settings) -> Ed25519PrivateKey:
    """The key all gateways of a deployment share. Raises `ConfigError`."""
    return _load_or_make(settings.auth.key_file or settings.data_dir / KEY_FILE)


def _load_or_make(path: Path) -> Ed25519PrivateKey:
    try:
        with suppress(FileExistsError):
            if not path.exists():
                _make(path)
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise ConfigError(
            f"Cannot read or make the token key {path}: {error.strerror}.",
            remedy="Set `auth.key_file` (T2M_AUTH__KEY_FILE) or `data_dir` (T2M_DATA_DIR), or run as their owner.",
        ) from error
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} holds no private key in PEM.", remedy="Restore it, or remove it for a new one."
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} holds no Ed25519 key.", remedy="`openssl genpkey -algorithm ed25519` makes one.")
    return key


def _make(path: Path) -> None:
    """Write a new key whole; of several processes that start at once, one wins (FileExistsError for the others)."""
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    finally:
        Path(temporary).unlink()
