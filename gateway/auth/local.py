"""Tokens that T2M issues itself: JWTs signed with an Ed25519 key of this installation.

`t2m token` issues them; every gateway that has the key accepts them.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
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
from gateway.auth.base import Principal, Role, TokenExpiredError, TokenInvalidError
from pipeline.vocabulary import now

ALGORITHM = "EdDSA"
ISSUER = AUDIENCE = "t2m"
CLAIMS = ["sub", "role", "iat", "exp"]
KEY_FILE = "auth-key.pem"
MAX_USER = 255
"""Characters of a user's name, as many as the database has room for."""


class LocalAuthenticator:
    """Issues and checks tokens with one private key.

    Args:
        key_file: PEM (PKCS 8) of an Ed25519 key, readable by its owner alone; made if there is none.

    Raises:
        ConfigError: the file cannot be read or written, or holds no Ed25519 key.
    """

    def __init__(self, key_file: Path) -> None:
        self._key = _load_or_make(key_file)
        self._public = self._key.public_key()

    @classmethod
    def open(cls, settings: Settings) -> LocalAuthenticator:
        """With the key of a deployment: the file the settings name, else one in the data folder."""
        return cls(settings.auth.key_file or settings.data_dir / KEY_FILE)

    def issue(self, user: str, role: Role = Role.USER, expires: timedelta = timedelta(hours=1)) -> str:
        """A token for `user` (at most `MAX_USER` characters), whose e-mail counts as verified."""
        at = now()
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": user, "iat": at, "exp": at + expires}
        return jwt.encode(claims | {"role": role, "email_verified": True}, self._key, algorithm=ALGORITHM)

    async def authenticate(self, token: str) -> Principal:
        """See `Authenticator.authenticate`. The algorithm is ours, whatever the token's header says."""
        try:
            claims = jwt.decode(
                token,
                self._public,
                algorithms=[ALGORITHM],
                issuer=ISSUER,
                audience=AUDIENCE,
                options={"require": CLAIMS},
            )
            return _principal(claims)
        except jwt.ExpiredSignatureError as error:
            raise TokenExpiredError from error
        except (jwt.InvalidTokenError, ValueError) as error:
            raise TokenInvalidError from error


def _principal(claims: dict[str, Any]) -> Principal:
    if not 0 < len(claims["sub"]) <= MAX_USER or "\x00" in claims["sub"]:
        raise ValueError("a token for nobody the database can name")
    return Principal(claims["sub"], Role(claims["role"]), claims.get("email_verified") is True)


def _load_or_make(path: Path) -> Ed25519PrivateKey:
    try:
        with suppress(FileExistsError):
            if not path.exists():
                _make(path)
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise ConfigError(f"Cannot read or make the token key {path}: {error.strerror}.") from error
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
