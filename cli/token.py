"""`t2m token`: a bearer token of this installation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from config.errors import ConfigError
from config.settings import load
from gateway.auth.base import Permission, Role
from gateway.auth.local import LocalAuthenticator

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST = timedelta(days=366)


def issue(
    data: Path | None,
    user: str,
    role: str,
    expires: str,
    *,
    email: str | None = None,
    permissions: Sequence[str] | None = None,
) -> str:
    """A token for `user`.

    Raises:
        ConfigError: the user is empty, the role, lifetime or permission unknown, or the key cannot be read or made.
    """
    settings = load(data_dir=data)
    if not user.strip():
        raise ConfigError("--user must not be empty.")
    scope = None if permissions is None else [_permission(name) for name in permissions]
    local = LocalAuthenticator.open(settings)
    return local.issue(user, _role(role), lifetime(expires), email=email, permissions=scope)


def _role(name: str) -> Role:
    try:
        return Role(name.upper())
    except ValueError:
        known = ", ".join(role.lower() for role in Role)
        raise ConfigError(f"There is no role {name!r}.", remedy=f"Roles: {known}.") from None


def _permission(name: str) -> Permission:
    try:
        return Permission(name.lower())
    except ValueError:
        known = ", ".join(Permission)
        raise ConfigError(f"There is no permission {name!r}.", remedy=f"Permissions: {known}.") from None


def lifetime(text: str) -> timedelta:
    """What "90s", "30m", "1h" or "7d" mean.

    Raises:
        ConfigError: it is none of these, zero, or longer than a year.
    """
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    span = timedelta(seconds=int(found[1]) * UNITS_S[found[2]]) if found else timedelta()
    if not timedelta() < span <= LONGEST:
        raise ConfigError(
            f"{text!r} is no lifetime.", remedy="Write a number and s, m, h or d, such as 1h; a year at most."
        )
    return span
