"""What the gateway needs of an identity provider."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Role(StrEnum):
    """What a user may do; an ADMIN may do all that a USER may."""

    USER = "USER"
    ADMIN = "ADMIN"


@dataclass(frozen=True)
class Principal:
    """The user a valid token speaks for."""

    user_id: str
    role: Role
    email_verified: bool


class TokenInvalidError(Exception):
    """The token was not issued here, was altered, or lacks what it must say."""


class TokenExpiredError(Exception):
    """The token was good once."""


class Authenticator(Protocol):
    """Checks bearer tokens; called for every request, so it keeps what it needs in memory."""

    async def authenticate(self, token: str) -> Principal:
        """The user of `token`. Raises `TokenInvalidError`, `TokenExpiredError`."""
