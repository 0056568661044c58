"""The routes under /auth, and who may call what."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from gateway.access import access
from gateway.auth.base import Permission, Role
from tests.unit.gateway.support import API, World
from tests.unit.gateway.test_api import UNKNOWN, error

EMAIL = "ada@example.com"
PUBLIC = {
    "/metrics",
    f"{API}/system/health",
    f"{API}/auth/health",
    f"{API}/videos/{{job_id}}/hls/{{token}}/{{name}}",
    f"{API}/files/secure/{{file_id}}",
}


async def ask(world: World, path: str, method: str = "GET", token: str | None = None) -> dict[str, Any]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    response = await world.client.request(method, f"{API}/auth/{path}", headers=headers)
    assert response.status == 200, await response.text()
    return dict(await response.json())


async def test_health_names_the_provider_as_the_document_does(world: World) -> None:
    told = await ask(world, "health")
    assert told.pop("local").keys() == {"status", "response_time", "last_check"}
    assert told == {"status": "healthy", "message": "Authentication service health check completed"}


async def test_status_with_and_without_a_token(world: World) -> None:
    context = {"path": "/auth/status", "method": "GET", "client_ip": "127.0.0.1"}
    anonymous = {"authenticated": False, "message": "No authentication provided", "request_context": context}
    assert await ask(world, "status") == anonymous
    assert await ask(world, "status", token=world.token(email=EMAIL)) == {
        "authenticated": True,
        "user_id": "ada",
        "email": EMAIL,
        "email_verified": True,
        "request_context": context,
    }


async def test_a_bad_token_is_refused_even_where_none_is_needed(world: World) -> None:
    headers = {"Authorization": f"Bearer {world.token(hours=-1)}"}
    await error(await world.client.get(f"{API}/auth/status", headers=headers), 401, "AUTH_EXPIRED")


async def test_me_has_all_documented_fields(world: World) -> None:
    assert await ask(world, "me", token=world.token(email=EMAIL)) == {
        "id": "ada",
        "username": "ada",
        "full_name": None,
        "email": EMAIL,
        "image_url": None,
        "email_verified": True,
        "created_at": None,
        "last_sign_in_at": None,
    }


async def test_permissions_follow_the_role_and_the_token(world: World) -> None:
    assert await ask(world, "permissions", token=world.token()) == {
        "user_id": "ada",
        "role": "USER",
        "permissions": ["read_files", "upload_files", "generate_videos"],
        "access_level": "standard",
    }
    admin = await ask(world, "permissions", token=world.token(role=Role.ADMIN))
    assert (admin["role"], admin["access_level"], admin["permissions"][-1]) == ("ADMIN", "admin", "manage_system")
    scoped = world.token(permissions=[Permission.READ_FILES, Permission.MANAGE_SYSTEM])
    assert (await ask(world, "permissions", token=scoped))["permissions"] == ["read_files"], "a token adds nothing"


async def test_the_test_endpoints_and_verify(world: World) -> None:
    token = world.token(email=EMAIL)
    identity = {"user_id": "ada", "email": EMAIL, "email_verified": True}
    protected = await ask(world, "test-protected", token=token)
    assert protected.pop("timestamp").endswith("Z")
    assert protected == {"message": "Successfully accessed protected endpoint", "user_id": "ada"}
    verified = await ask(world, "test-verified", token=token)
    assert verified.pop("timestamp").endswith("Z")
    assert verified == {"message": "Successfully accessed verified user endpoint"} | identity
    message = {"message": "Token verified successfully"}
    assert await ask(world, "verify", "POST", token) == {"verified": True} | identity | message


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "me"), ("GET", "permissions"), ("GET", "test-protected"), ("POST", "verify")]
)
async def test_the_others_want_a_token(world: World, method: str, path: str) -> None:
    await error(await world.client.request(method, f"{API}/auth/{path}"), 401, "AUTH_REQUIRED")


@pytest.mark.parametrize(
    ("method", "path", "permission"),
    [
        ("POST", "/videos/generate", Permission.GENERATE_VIDEOS),
        ("POST", f"/jobs/{UNKNOWN}/cancel", Permission.GENERATE_VIDEOS),
        ("DELETE", f"/jobs/{UNKNOWN}", Permission.GENERATE_VIDEOS),
        ("GET", f"/videos/{UNKNOWN}/download", Permission.READ_FILES),
    ],
)
async def test_a_permission_decides(world: World, method: str, path: str, permission: Permission) -> None:
    others = [one for one in Permission if one is not permission]
    headers = {"Authorization": f"Bearer {world.token(permissions=others)}"}
    told = await error(await world.client.request(method, API + path, headers=headers), 403, "PERMISSION_DENIED")
    assert permission in told["details"]


async def test_only_these_routes_let_anybody_in(world: World) -> None:
    app = world.client.app
    assert isinstance(app, web.Application)
    routes = [(route.resource.canonical, access(route.handler)) for route in app.router.routes() if route.resource]
    assert {path for path, wanted in routes if wanted.blind} == PUBLIC
