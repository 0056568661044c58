"""The API's own document: whole, true to the code, and fit for tools."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp import hdrs, web
from yarl import URL

import gateway
from gateway import openapi
from gateway.contract import contract
from tests.unit.gateway.documented import problem
from tests.unit.gateway.support import API, World
from tests.unit.gateway.test_api import error

SOURCES = sorted((Path(gateway.__file__).parent / "routes").glob("*.py"))
READS = {"query", "rel_url", "query_string", "post", "json", "read", "text", "multipart", "content"}
"""Attributes of a request by which a handler would read what its contract does not say."""
READ_BY_HAND = {"generate"}
"""Its body depends on the model that it names; `pipeline.requests.bodies` documents what `resolve` takes."""


@pytest.fixture
def app(world: World) -> web.Application:
    app = world.client.app
    assert isinstance(app, web.Application)
    return app


@pytest.fixture
def document(app: web.Application) -> dict[str, Any]:
    return openapi.document(app)


async def test_it_is_served_at_both_places(world: World, document: dict[str, Any]) -> None:
    for path in (f"{API}/openapi.json", "/openapi.json"):
        response = await world.client.get(path)
        assert await response.json() == document
    assert document["openapi"].startswith("3.1.")


async def test_every_route_says_what_it_takes_and_gives(app: web.Application, document: dict[str, Any]) -> None:
    routes = [route for route in app.router.routes() if route.method != hdrs.METH_HEAD and route.resource]
    silent = [str(route) for route in routes if contract(route.handler) is None]
    assert silent == []
    told = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert told == {(route.method, route.resource.canonical) for route in routes if route.resource}
    names = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_handler_reads_what_it_does_not_say(path: Path) -> None:
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.AsyncFunctionDef | ast.FunctionDef) and function.name not in READ_BY_HAND:
            used = {
                node.attr
                for node in ast.walk(function)
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "request"
            }
            assert not used & READS, f"{path.name}: {function.name}"


async def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def references(part: Any) -> list[str]:
        if isinstance(part, list):
            return [one for inner in part for one in references(inner)]
        if not isinstance(part, dict):
            return []
        own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return own + [one for inner in part.values() for one in references(inner)]

    for reference in set(references(document)):
        found = document
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]


async def test_who_may_call_follows_from_what_is_said_above_the_handler(document: dict[str, Any]) -> None:
    paths, token = document["paths"], {"bearer": []}
    assert paths[f"{API}/system/health"]["get"]["security"] == []
    assert paths[f"{API}/system/queue"]["get"]["security"] == [{}, token]
    assert paths[f"{API}/jobs"]["get"]["security"] == [token]
    assert "403" not in paths[f"{API}/jobs"]["get"]["responses"]
    assert "403" in paths[f"{API}/videos/{{job_id}}/download"]["get"]["responses"]


async def test_a_body_is_documented_with_the_limits_of_each_model(world: World, document: dict[str, Any]) -> None:
    body = document["paths"][f"{API}/videos/generate"]["post"]["requestBody"]
    schemas = document["components"]["schemas"]
    bodies = [schemas[one["$ref"].rpartition("/")[2]] for one in body["content"]["application/json"]["schema"]["anyOf"]]
    assert len(bodies) == len(world.catalogue.names)
    for schema, entry in zip(bodies, world.catalogue, strict=True):
        (steps,) = (one for one in schema["properties"]["steps"]["anyOf"] if one["type"] == "integer")
        assert steps["maximum"] == entry.max_steps
        assert ("model" in schema["required"]) == (entry.name != world.settings.models.default)


async def test_parameters_without_a_default_are_required(document: dict[str, Any]) -> None:
    told = document["paths"][f"{API}/files/secure/{{file_id}}"]["get"]["parameters"]
    required = {one["name"] for one in told if one["in"] == "query" and one["required"]}
    assert required == {"user_id", "expires", "signature"}


async def test_an_answer_that_is_not_documented_is_noticed(document: dict[str, Any]) -> None:
    """The check that all other tests of the gateway rest on."""
    data = {"id": "job_1", "status": "cancelled", "stage": "cancelled", "progress": 0, "completed_at": None}
    path = f"{API}/jobs/{{job_id}}/cancel"

    def told(response: web.Response, path: str = path) -> str:
        return problem(document, "POST", path, response) or ""

    def answer(**more: Any) -> web.Response:
        body = json.dumps({"success": True, "data": data | more}).encode()
        return web.Response(body=body, content_type="application/json")

    assert told(answer()) == ""
    assert "unknown" in told(answer(unknown=1))
    assert "paused" in told(answer(status="paused"))
    assert "yesterday" in told(answer(completed_at="yesterday"))
    assert "status is not documented" in told(web.Response(status=418))
    assert "text/html" in told(web.Response(content_type="text/html"))
    assert "lacks" in told(web.Response(status=429, body=b"{}", content_type="application/json"))
    assert "not documented" in told(answer(), "/nowhere")


async def test_the_documentation_page_needs_nothing_from_elsewhere(world: World) -> None:
    response = await world.client.get("/docs")
    text = await response.text()
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "//" not in text.replace("<!doctype html>", "")
    parts = re.findall(r'(?:src|href)="docs/([^"]+)"', text)
    assert "swagger-ui-bundle.js" in parts
    for name in parts:
        assert (await world.client.get(f"/docs/{name}")).status == 200, name
    for name in ("page.html", "..%2Fapp.py", "__init__.py", "swagger-ui.js"):
        await error(await world.client.get(URL(f"/docs/{name}", encoded=True)), 404, "RESOURCE_NOT_FOUND")
