"""Every endpoint of the document answers as it says, with every field of every example."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance import document
from tests.conformance.scene import Scene
from tests.unit.gateway.support import API, World
from tests.unit.gateway.test_api import error

ENDPOINTS = {str(endpoint): endpoint for endpoint in document.endpoints()}
MEDIA = ("/download", "/stream", "/thumbnail")
LISTS = {"GET /files", "GET /jobs"}
PAGINATION = {
    "page",
    "items_per_page",
    "total_items",
    "total_pages",
    "has_next",
    "has_previous",
    "next_page",
    "previous_page",
}
MAY_BE_NULL = {
    "GET /auth/me": {"full_name", "image_url", "created_at", "last_sign_in_at"},  # the provider may not know them
    "GET /videos/{job_id}/metadata": {"data.audio"},  # the video has no sound
}
PROVIDER = {"GET /auth/health": ("clerk", "local")}
"""A field that is called after the identity provider."""
STAND_IN = {"GET /videos/{job_id}/metadata"}
"""Its content comes from the workers; tests/e2e holds what they write against the document."""


@pytest.fixture
def scene(world: World) -> Scene:
    return Scene(world)


def differences(example: Any, answer: Any, nullable: set[str], at: str = "") -> list[str]:
    """Fields of the example that the answer lacks, or has with another kind of value."""
    if answer is None and (example is None or at in nullable):
        return []
    if isinstance(example, dict) and isinstance(answer, dict):
        lacks = [f"{at}.{key}".strip(".") for key in example if key not in answer]
        inner = [
            one
            for key in example.keys() & answer.keys()
            for one in differences(example[key], answer[key], nullable, f"{at}.{key}".strip("."))
        ]
        return lacks + inner
    if isinstance(example, list) and isinstance(answer, list):
        return differences(example[0], answer[0], nullable, f"{at}[]") if answer else [f"{at} is empty"]
    same = isinstance(answer, kind(example))
    return [] if same else [f"{at} is {answer!r}, not as {example!r}"]


def kind(example: Any) -> Any:
    """The types a value like the example may have."""
    if isinstance(example, bool):
        return bool
    if isinstance(example, (int, float)):
        return (int, float)
    return object if example is None else type(example)


async def test_nothing_is_missing(scene: Scene) -> None:
    missing = {name for name, endpoint in ENDPOINTS.items() if not scene.has(endpoint)}
    assert missing == set()


@pytest.mark.parametrize("name", ENDPOINTS)
async def test_the_answer_has_all_that_the_document_shows(scene: Scene, name: str) -> None:
    await check(scene, name)


async def check(scene: Scene, name: str) -> None:
    """Ask as the document says, and compare the answer with it."""
    endpoint = ENDPOINTS[name]
    response = await scene.request(endpoint)
    assert response.status in (200, 201, 202), f"{name}: {await response.text()}"
    if endpoint.path.endswith(MEDIA) or "/secure/" in endpoint.path:
        assert not response.content_type.endswith("json")
        assert await response.read()
        return
    body = await response.json()
    if not endpoint.path.startswith("/auth/"):
        assert body["success"] is True
        assert isinstance(body["data"], dict)
    if name in LISTS:
        assert set(body["data"]["pagination"]) == PAGINATION
    for example in endpoint.answers[:1] if name not in STAND_IN else []:  # of two, the one with a token
        documented, here = PROVIDER.get(name, ("", ""))
        example = {here if key == documented else key: value for key, value in example.items()}
        assert differences(example, body, MAY_BE_NULL.get(name, set())) == [], name


async def test_the_status_of_a_token_with_and_without_one(scene: Scene) -> None:
    known, unknown = ENDPOINTS["GET /auth/status"].answers
    with_one = await (await scene.request(ENDPOINTS["GET /auth/status"])).json()
    without = await (await scene.world.client.get(f"{API}/auth/status")).json()
    assert differences(known, with_one, set()) == differences(unknown, without, set()) == []
    assert (with_one["authenticated"], without["authenticated"]) == (True, False)


async def test_a_token_is_required_where_the_document_says_so_and_nowhere_else(scene: Scene) -> None:
    for name, endpoint in ENDPOINTS.items():
        if "/secure/" in name:
            continue
        path = endpoint.path.replace("{job_id}", "job_789012").replace("{file_id}", "file_123456")
        response = await scene.world.client.request(endpoint.method, API + path)
        if endpoint.token == "required" or (endpoint.path.startswith("/system/") and endpoint.method == "POST"):
            await error(response, 401, "AUTH_REQUIRED")  # of /system, what changes something: the one tightening
        else:
            assert response.status == 200, f"{name}: {await response.text()}"
