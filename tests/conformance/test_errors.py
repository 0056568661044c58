"""Every error code of the document, caused over HTTP, with its status and the documented envelope."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import ClientResponse

from config.settings import Settings
from gateway import health
from pipeline.errors import StoreError
from tests.conformance import document
from tests.unit.gateway.fixtures import OpenWorld
from tests.unit.gateway.support import API, World
from tests.unit.gateway.test_api import error

UNKNOWN = "job_0190163d8694739b8aea0006e1fd3b7b"
Cause = Callable[[World], Awaitable[ClientResponse]]


async def no_token(world: World) -> ClientResponse:
    return await world.client.get(f"{API}/jobs")


async def broken_token(world: World) -> ClientResponse:
    return await world.client.get(f"{API}/jobs", headers={"Authorization": f"Bearer {world.token()}x"})


async def old_token(world: World) -> ClientResponse:
    return await world.client.get(f"{API}/jobs", headers={"Authorization": f"Bearer {world.token(hours=-1)}"})


async def narrow_token(world: World) -> ClientResponse:
    headers = {"Authorization": f"Bearer {world.token(permissions=[])}"}
    return await world.client.post(f"{API}/videos/generate", json={"prompt": "p"}, headers=headers)


async def unknown_job(world: World) -> ClientResponse:
    return await world.get(f"/jobs/{UNKNOWN}")


async def wrong_page(world: World) -> ClientResponse:
    return await world.get("/jobs?page=0")


async def lost_store(world: World) -> ClientResponse:
    async def away() -> None:
        raise StoreError("The store is away.")

    world.gateway.health = health.Health({"store": away})
    return await world.client.get(f"{API}/system/health")


async def a_bug(world: World) -> ClientResponse:
    world.gateway.database = None  # type: ignore[assignment]
    return await world.get("/jobs")


CAUSES: dict[str, Cause] = {
    "AUTH_REQUIRED": no_token,
    "AUTH_INVALID": broken_token,
    "AUTH_EXPIRED": old_token,
    "PERMISSION_DENIED": narrow_token,
    "RESOURCE_NOT_FOUND": unknown_job,
    "VALIDATION_ERROR": wrong_page,
    "SERVER_ERROR": a_bug,
    "SERVICE_UNAVAILABLE": lost_store,
}


def test_every_code_has_a_cause() -> None:
    assert set(document.error_codes()) == {*CAUSES, "RATE_LIMIT_EXCEEDED"}


async def test_the_rate_limit_is_said_as_the_document_says_it(open_world: OpenWorld, settings: Settings) -> None:
    world = await open_world(settings.model_copy(update={"limits": settings.limits.model_copy(update={"jobs": 1})}))
    await world.generate()
    response = await world.client.post(f"{API}/videos/generate", json={"prompt": "p"}, headers=world.headers())
    told = await error(response, 429, "RATE_LIMIT_EXCEEDED")
    example = document.error_answers()[3]["error"]
    assert told["message"] == example["message"]
    begin, _, end = re.escape(example["details"]).partition("100\\ uploads")
    assert re.fullmatch(begin + r"1 jobs?" + end.replace("45\\ minutes", r"\d+ (minutes?|seconds?)"), told["details"])


@pytest.mark.parametrize("code", CAUSES)
async def test_a_code_comes_with_its_status(open_world: OpenWorld, code: str) -> None:
    world = await open_world()
    database = world.gateway.database
    try:
        await error(await CAUSES[code](world), document.error_codes()[code], code)
    finally:
        world.gateway.database = database


async def test_details_are_those_of_the_examples(world: World) -> None:
    *_, validation, _ = document.error_answers()
    told = await error(await world.get("/jobs?page=0"), 400, "VALIDATION_ERROR")
    assert told["message"] == validation["error"]["message"]
    assert told["details"]["page"] == validation["error"]["details"]["page"]
    missing = document.error_answers()[1]["error"]
    gone = await error(await world.get(f"/jobs/{UNKNOWN}"), 404, "RESOURCE_NOT_FOUND")
    assert gone["message"] == missing["message"].replace("File", "Job")
    assert gone["details"] == missing["details"].replace("File", "Job").replace("file_123456", UNKNOWN)
