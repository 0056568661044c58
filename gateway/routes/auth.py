"""Section "Authentication Endpoints"; its answers have no envelope."""

from __future__ import annotations

from typing import Literal, NotRequired, cast

from aiohttp import web
from typing_extensions import TypedDict

from gateway.access import optional, public, requires
from gateway.auth.base import Permission, Profile, Role
from gateway.context import GATEWAY, PRINCIPAL
from gateway.contract import operation
from gateway.envelope import Flat, Time, flat, timestamp
from gateway.errors import unavailable
from gateway.health import PartHealth
from gateway.links import BASE_PATH, client_address
from pipeline.vocabulary import now

routes = web.RouteTableDef()

Level = Literal["standard", "admin"]
ACCESS_LEVELS: dict[Role, Level] = {Role.USER: "standard", Role.ADMIN: "admin"}


class AuthHealth(TypedDict):
    """How the identity provider is; the entry is called after it."""

    status: Literal["healthy"]
    message: str
    clerk: NotRequired[PartHealth]
    oidc: NotRequired[PartHealth]
    local: NotRequired[PartHealth]


class Context(TypedDict):
    """How a request arrived."""

    path: str
    method: str
    client_ip: str


class Identity(TypedDict):
    """Who a token speaks for."""

    user_id: str
    email: str | None
    email_verified: bool


class Anonymous(TypedDict):
    """The state without a token."""

    authenticated: Literal[False]
    message: str
    request_context: Context


class Authenticated(Identity):
    """The state with a token."""

    authenticated: Literal[True]
    request_context: Context


class Me(TypedDict):
    """A profile; null is what the identity provider does not say."""

    id: str
    username: str | None
    full_name: str | None
    email: str | None
    image_url: str | None
    email_verified: bool
    created_at: Time | None
    last_sign_in_at: Time | None


class Permissions(TypedDict):
    """What a user may do."""

    user_id: str
    role: Role
    permissions: list[Permission]
    access_level: Level


class Protected(TypedDict):
    """The answer behind a token."""

    message: str
    user_id: str
    timestamp: Time


class Verified(Identity):
    """The answer behind a verified e-mail address."""

    message: str
    timestamp: Time


class Token(Identity):
    """A token that is good."""

    verified: Literal[True]
    message: str


@routes.get("/auth/health")
@public
@operation()
async def health(request: web.Request) -> Flat[AuthHealth]:
    """Whether the identity provider answers; 503 names it if it does not."""
    ((provider, answer),) = (await request.app[GATEWAY].provider_health.report()).items()
    if not answer.healthy:
        raise unavailable({"status": "unhealthy", provider: answer.view})
    message = "Authentication service health check completed"
    return flat(cast(AuthHealth, {"status": "healthy", provider: answer.view, "message": message}))


@routes.get("/auth/status")
@optional
@operation()
async def status(request: web.Request) -> Flat[Anonymous | Authenticated]:
    """Who asks, if anybody."""
    told = _context(request)
    if PRINCIPAL not in request:
        text = "No authentication provided"
        return flat(Anonymous(authenticated=False, message=text, request_context=told))
    return flat(Authenticated(authenticated=True, request_context=told, **_identity(await _profile(request))))


@routes.get("/auth/me")
@operation()
async def me(request: web.Request) -> Flat[Me]:
    """The user's profile."""
    profile = await _profile(request)
    return flat(
        {
            "id": profile.user_id,
            "username": profile.username,
            "full_name": profile.full_name,
            "email": profile.email,
            "image_url": profile.image_url,
            "email_verified": profile.email_verified,
            "created_at": timestamp(profile.created_at),
            "last_sign_in_at": timestamp(profile.last_sign_in_at),
        }
    )


@routes.get("/auth/permissions")
@operation()
async def permissions(request: web.Request) -> Flat[Permissions]:
    """What the user may do."""
    principal = request[PRINCIPAL]
    return flat(
        {
            "user_id": principal.user_id,
            "role": principal.role,
            "permissions": list(principal.permissions),
            "access_level": ACCESS_LEVELS[principal.role],
        }
    )


@routes.get("/auth/test-protected")
@operation()
async def test_protected(request: web.Request) -> Flat[Protected]:
    """That the token is good."""
    message = "Successfully accessed protected endpoint"
    return flat({"message": message, "user_id": request[PRINCIPAL].user_id, "timestamp": timestamp(now())})


@routes.get("/auth/test-verified")
@requires(verified=True)
@operation()
async def test_verified(request: web.Request) -> Flat[Verified]:
    """That the token is good and its user's e-mail address verified."""
    message = "Successfully accessed verified user endpoint"
    return flat({"message": message, **_identity(await _profile(request)), "timestamp": timestamp(now())})


@routes.post("/auth/verify")
@operation()
async def verify(request: web.Request) -> Flat[Token]:
    """Whether a token is good; one that is not was refused before."""
    return flat({"verified": True, **_identity(await _profile(request)), "message": "Token verified successfully"})


async def _profile(request: web.Request) -> Profile:
    return await request.app[GATEWAY].authenticator.profile(request[PRINCIPAL])


def _identity(profile: Profile) -> Identity:
    return {"user_id": profile.user_id, "email": profile.email, "email_verified": profile.email_verified}


def _context(request: web.Request) -> Context:
    proxies = request.app[GATEWAY].settings.gateway.trusted_proxies
    return {
        "path": request.path.removeprefix(BASE_PATH),
        "method": request.method,
        "client_ip": client_address(request, proxies),
    }
