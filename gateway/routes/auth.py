"""Section "Authentication Endpoints"; its answers have no envelope."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from gateway.access import optional, public, requires
from gateway.auth.base import Profile, Role
from gateway.context import GATEWAY, PRINCIPAL
from gateway.envelope import flat, timestamp
from gateway.errors import unavailable
from gateway.health import ask
from gateway.links import BASE_PATH, client_address
from pipeline.vocabulary import now

routes = web.RouteTableDef()

ACCESS_LEVELS = {Role.USER: "standard", Role.ADMIN: "admin"}


@routes.get("/auth/health")
@public
async def health(request: web.Request) -> web.Response:
    """Whether the identity provider answers; 503 names it if it does not."""
    provider = request.app[GATEWAY].authenticator
    answer = await ask(provider.name, provider.ping)
    if not answer.healthy:
        raise unavailable({"status": "unhealthy", provider.name: answer.view})
    message = "Authentication service health check completed"
    return flat({"status": "healthy", provider.name: answer.view, "message": message})


@routes.get("/auth/status")
@optional
async def status(request: web.Request) -> web.Response:
    """Who asks, if anybody."""
    context = {"request_context": _context(request)}
    if PRINCIPAL not in request:
        return flat({"authenticated": False, "message": "No authentication provided"} | context)
    return flat({"authenticated": True} | _identity(await _profile(request)) | context)


@routes.get("/auth/me")
async def me(request: web.Request) -> web.Response:
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
async def permissions(request: web.Request) -> web.Response:
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
async def test_protected(request: web.Request) -> web.Response:
    """That the token is good."""
    message = "Successfully accessed protected endpoint"
    return flat({"message": message, "user_id": request[PRINCIPAL].user_id, "timestamp": timestamp(now())})


@routes.get("/auth/test-verified")
@requires(verified=True)
async def test_verified(request: web.Request) -> web.Response:
    """That the token is good and its user's e-mail address verified."""
    message = "Successfully accessed verified user endpoint"
    return flat({"message": message} | _identity(await _profile(request)) | {"timestamp": timestamp(now())})


@routes.post("/auth/verify")
async def verify(request: web.Request) -> web.Response:
    """Whether a token is good; one that is not was refused before."""
    return flat({"verified": True} | _identity(await _profile(request)) | {"message": "Token verified successfully"})


async def _profile(request: web.Request) -> Profile:
    return await request.app[GATEWAY].authenticator.profile(request[PRINCIPAL])


def _identity(profile: Profile) -> dict[str, Any]:
    return {"user_id": profile.user_id, "email": profile.email, "email_verified": profile.email_verified}


def _context(request: web.Request) -> dict[str, Any]:
    proxies = request.app[GATEWAY].settings.gateway.trusted_proxies
    return {
        "path": request.path.removeprefix(BASE_PATH),
        "method": request.method,
        "client_ip": client_address(request, proxies),
    }
