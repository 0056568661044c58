"""Holds every answer of a gateway against its own OpenAPI document."""

from __future__ import annotations

import json
from functools import cache, lru_cache
from typing import Any

import jsonschema_rs
from aiohttp import hdrs, web

from gateway.context import GATEWAY
from gateway.openapi import document

Json = dict[str, Any]
HTTP = {(hdrs.METH_OPTIONS, 204)}
"""Answers by HTTP's own rules, which are documented nowhere."""


class Documented:
    """What one app answered that its document does not say; to be called before the app starts."""

    def __init__(self, app: web.Application) -> None:
        self.wrong: list[str] = []
        app.on_response_prepare.append(self._check)

    async def _check(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        assert isinstance(request, web.Request)
        if request.match_info.http_exception is None and (request.method, response.status) not in HTTP:
            resource = request.match_info.route.resource
            assert resource is not None
            told = problem(_document(request.app), request.method, resource.canonical, response)
            if told is not None:
                self.wrong.append(f"{request.method} {request.path_qs} → {response.status}: {told}")


def problem(whole: Json, method: str, path: str, response: web.StreamResponse) -> str | None:
    """In what an answer differs from the document `whole`; `path` is that of the route."""
    headless = method == hdrs.METH_HEAD
    said = whole["paths"].get(path, {}).get("get" if headless else method.lower())
    if said is None:
        return "the route is not documented"
    answer = said["responses"].get(str(response.status))
    if answer is None:
        return f"the status is not documented ({', '.join(said['responses'])})"
    if "$ref" in answer:
        answer = whole["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    missing = answer.get("headers", {}).keys() - set(response.headers)
    if missing:
        return f"lacks {missing}"
    return None if headless else _body_problem(response, answer.get("content"), whole)


def _body_problem(response: web.StreamResponse, content: Json | None, whole: Json) -> str | None:
    if content is None:
        return "has a body" if getattr(response, "body", None) else None
    if not {response.content_type, "*/*"} & content.keys():
        return f"{response.content_type} is not documented ({', '.join(content)})"
    if "application/json" not in content:
        return None
    assert isinstance(response, web.Response) and isinstance(response.body, bytes)
    schema = _closed(content[response.content_type]["schema"])
    validator = _validator(json.dumps(schema), json.dumps(whole["components"]["schemas"]))
    found = validator.iter_errors(json.loads(response.body))
    return "; ".join(f"{error.message} at {error.instance_path}" for error in found) or None


@lru_cache(maxsize=256)
def _validator(schema: str, components: str) -> Any:
    told = json.loads(schema) | {"components": {"schemas": _closed(json.loads(components))}}
    return jsonschema_rs.Draft202012Validator(told, validate_formats=True)


def _closed(schema: Any) -> Any:
    """Nothing may be answered beyond what is documented, though clients are to expect more in later versions."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: _closed(value) for key, value in schema.items()}
    return {"additionalProperties": False, **inner} if isinstance(schema.get("properties"), dict) else inner


@cache
def _cached(key: object) -> dict[str, Json]:
    return {}


def _document(app: web.Application) -> Json:
    """The document of an app; of apps with equal routes and settings that of the first, as there are hundreds."""
    gateway = app[GATEWAY]
    known = _cached((len(app.router.routes()), gateway.catalogue.names, gateway.settings.models.default))
    if not known:
        known.update(document(app))
    return known
