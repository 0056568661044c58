"""Says above each handler who may call it; `gateway.middleware` sees to it.

    @routes.post("/videos/generate")
    @requires(Permission.GENERATE_VIDEOS)
    async def generate(request): ...

A handler that says nothing wants a valid token, so that a new one is safe by default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from aiohttp.typedefs import Handler

from gateway.auth.base import Permission

ATTRIBUTE = "t2m_access"

H = TypeVar("H", bound=Handler)


@dataclass(frozen=True)
class Access:
    """Who may call a handler.

    Attributes:
        anonymous: without a token; one that is given must be good nevertheless.
        blind: whatever token is given, it is not looked at.
        verified: the user's e-mail address must be.
    """

    anonymous: bool = False
    blind: bool = False
    permission: Permission | None = None
    verified: bool = False


AUTHENTICATED = Access()


def public(handler: H) -> H:
    """Anybody, with or without any token: probes, and links that carry their own signature."""
    return _with(handler, Access(anonymous=True, blind=True))


def optional(handler: H) -> H:
    """Anybody; who gives a token must give a good one. `PRINCIPAL in request` tells the two apart."""
    return _with(handler, Access(anonymous=True))


def requires(permission: Permission | None = None, *, verified: bool = False) -> Callable[[H], H]:
    """Users with a permission, or with a verified e-mail address."""
    return lambda handler: _with(handler, Access(permission=permission, verified=verified))


def access(handler: object) -> Access:
    """What was said above the handler."""
    found = getattr(handler, ATTRIBUTE, AUTHENTICATED)
    assert isinstance(found, Access)  # noqa: S101 - for the type checker
    return found


def _with(handler: H, said: Access) -> H:
    setattr(handler, ATTRIBUTE, said)
    return handler
