"""What the gateway needs of an identity provider."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

MAX_USER = 255
"""Characters of a user's name, as many as the database has room for."""


class Role(StrEnum):
    """What a user may do; an ADMIN may do all that a USER may."""

    USER = "USER"
    ADMIN = "ADMIN"


class Permission(StrEnum):
    """What a route may ask for."""

    READ_FILES = "read_files"
    UPLOAD_FILES = "upload_files"
    GENERATE_VIDEOS = "generate_videos"
    MANAGE_SYSTEM = "manage_system"


PERMISSIONS = {
    Role.USER: (Permission.READ_FILES, Permission.UPLOAD_FILES, Permission.GENERATE_VIDEOS),
    Role.ADMIN: tuple(Permission),
}


@dataclass(frozen=True)
class Principal:
    """The user a valid token speaks for.

    Attributes:
        scope: the permissions the token is limited to; None for all of the role's.
        claims: what else the token says.
    """

    user_id: str
    role: Role
    scope: frozenset[str] | None = None
    claims: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def permissions(self) -> tuple[Permission, ...]:
        """Those of the role, less those the token leaves out."""
        return tuple(one for one in PERMISSIONS[self.role] if self.scope is None or one in self.scope)


@dataclass(frozen=True)
class Profile:
    """What the identity provider knows of a user; None where it does not say."""

    user_id: str
    username: str | None = None
    full_name: str | None = None
    email: str | None = None
    email_verified: bool = False
    image_url: str | None = None
    created_at: datetime | None = None
    last_sign_in_at: datetime | None = None


class TokenInvalidError(Exception):
    """The token was not issued here, was altered, or lacks what it must say."""


class TokenExpiredError(Exception):
    """The token was good once."""


class Authenticator(Protocol):
    """Checks bearer tokens; called for every request, so it keeps what it needs in memory."""

    name: str
    """Of the provider, as `/auth/health` names it."""

    async def authenticate(self, token: str) -> Principal:
        """The user of `token`. Raises `TokenInvalidError`, `TokenExpiredError`."""

    async def profile(self, principal: Principal) -> Profile:
        """What is known of the user. Raises `ProviderError` when the provider has to be asked and does not answer."""

    async def ping(self) -> None:
        """Returns if the provider answers; raises whatever kept it from doing so."""

    async def close(self) -> None:
        """Release connections."""


def check_user(user_id: object) -> str:
    """A token's subject. Raises ValueError for one the database cannot name."""
    if not isinstance(user_id, str) or not 0 < len(user_id) <= MAX_USER or "\x00" in user_id:
        raise ValueError("a token for nobody the database can name")
    user_id.encode()  # half of a surrogate pair, which JSON may hold, is no text: a ValueError, too
    return user_id


def claimed_profile(principal: Principal) -> Profile:
    """What the token itself says of its user, by OpenID Connect's names."""
    claims = principal.claims
    return Profile(
        principal.user_id,
        username=text(claims.get("preferred_username")),
        full_name=text(claims.get("name")),
        email=text(claims.get("email")),
        email_verified=claims.get("email_verified") is True,
        image_url=text(claims.get("picture")),
    )


def claimed_scope(claims: Mapping[str, Any]) -> frozenset[str] | None:
    """The permissions a token is limited to by its claim `permissions`. Raises ValueError if that is no list."""
    if "permissions" not in claims:
        return None
    named = claims["permissions"]
    if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
        raise ValueError("permissions must be a list of names")
    return frozenset(named)


def text(value: object) -> str | None:
    """A claim that should be text; None if it is missing, empty or something else."""
    return value if isinstance(value, str) and value else None
