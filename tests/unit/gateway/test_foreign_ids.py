"""Another user's ids on every endpoint there is; a new one is tried as soon as it has a route."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientResponse, web

from config.settings import Settings
from gateway import openapi
from gateway.auth.base import Role
from gateway.openapi import VARIABLE, Route
from tests.unit.gateway.fixtures import OpenWorld
from tests.unit.gateway.support import API, World
from tests.unit.gateway.test_api import error
from tests.unit.gateway.uploading import upload

ELSEWHERE = {"token", "name"}
"""Parts of paths that are no ids of a user's."""


@pytest.fixture
async def adas(open_world: OpenWorld, settings: Settings) -> AsyncIterator[tuple[World, dict[str, list[str]]]]:
    """A gateway, and the ids of what Ada has."""
    world = await open_world(settings)
    job, running = await world.completed(), await world.generate()
    body = {"url": "https://receiver.example/hook"}
    hook = await sent(world, "POST", "/webhooks", json=body)
    delivery = await sent(world, "POST", f"/webhooks/{hook['id']}/test", json={})
    file = await upload(world)
    yield (
        world,
        {
            "job_id": [job, running],
            "webhook_id": [hook["id"]],
            "delivery_id": [delivery["id"]],
            "file_id": [file["id"], job.replace("job_", "video_")],
        },
    )


async def sent(world: World, method: str, path: str, **more: Any) -> dict[str, Any]:
    response = await world.client.request(method, API + path, headers=world.headers(), **more)
    assert response.status < 300, await response.text()
    return dict((await response.json())["data"])


def paths(route: Route, ids: dict[str, list[str]]) -> list[str]:
    """A route's path with every id that fits."""
    filled = [route.path]
    for name in VARIABLE.findall(route.path):
        assert name in ids or name in ELSEWHERE, f"say whose {name} is"
        filled = [path.replace(f"{{{name}}}", one) for path in filled for one in ids.get(name, ["x"])]
    return filled


async def ask(world: World, route: Route, path: str, user: str, role: Role = Role.USER) -> ClientResponse:
    body = {"json": {}} if route.contract.body is not None else {}
    headers = {"Authorization": f"Bearer {world.token(user, role)}"}
    return await world.client.request(route.method, path, headers=headers, **body)


async def state(world: World, ids: dict[str, list[str]]) -> list[Any]:
    """What Ada sees of her things."""
    lists = [await world.data(path) for path in ("/jobs", "/files", "/webhooks")]
    sent = await world.data(f"/webhooks/{ids['webhook_id'][0]}/deliveries")  # which are being tried meanwhile
    return [*lists, [one["id"] for one in sent["items"]]]


@pytest.mark.parametrize("role", [Role.USER, Role.ADMIN])
async def test_what_is_another_users_is_not_there(adas: tuple[World, dict[str, list[str]]], role: Role) -> None:
    world, ids = adas
    app = world.client.app
    assert isinstance(app, web.Application)
    before, tried = await state(world, ids), 0
    for route in openapi.routes(app):
        if not set(VARIABLE.findall(route.path)) & ids.keys():
            continue
        for path in paths(route, ids):
            if route.access.blind:  # opened by a signature alone
                response = await ask(world, route, f"{path}?user_id=ada&expires=9999999999&signature=x", "bob", role)
                await error(response, 401, "AUTH_INVALID")
            else:
                response = await ask(world, route, path, "bob", role)
                told = await error(response, 404, "RESOURCE_NOT_FOUND")
                assert told["details"].endswith("does not exist or you don't have access"), path
            tried += 1
    assert tried > 30
    assert await state(world, ids) == before


async def test_nor_is_it_in_lists(adas: tuple[World, dict[str, list[str]]]) -> None:
    world, ids = adas
    for path in ("/jobs", "/files", "/webhooks", f"/webhooks?job_id={ids['job_id'][0]}"):
        assert (await world.data(path, "bob"))["items"] == [], path
    statistics = await world.data("/files/stats", "bob")
    assert (statistics["total_files"], statistics["storage"]["used"]) == (0, 0)
