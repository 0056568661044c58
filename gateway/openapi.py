"""The API as an OpenAPI 3.1 document, from what is said above each handler (`gateway.contract`, `gateway.access`)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Literal

from aiohttp import hdrs, web
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from gateway import ids
from gateway.access import Access, access
from gateway.context import GATEWAY, Gateway
from gateway.contract import Contract, contract
from gateway.envelope import Failure
from gateway.errors import STATUS, Code
from gateway.links import BASE_PATH
from gateway.validation import FORM, JSON, MULTIPART
from pipeline.vocabulary import EventKind

Mode = Literal["validation", "serialization"]
Json = dict[str, Any]

KINDS = {"body": JSON, "form": FORM, "multipart": MULTIPART}
"""Content types of what is sent."""
VARIABLE = re.compile(r"\{(\w+)\}")
SECURITY = "bearer"
BODILESS = {"204", "304"}
LOCATED = (201, 202, 308)
"""Statuses whose answers say where to go on."""
ALWAYS = (500, 503)
HEADERS = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}
"""Of errors; each stands in every such answer."""
ABOUT = """Turns prompts into videos. Every answer of a JSON endpoint is in an envelope, but for those under `/auth/`.
Times are in UTC, durations in seconds, sizes in bytes. Every answer has the header `X-Request-ID`."""


class Untitled(GenerateJsonSchema):
    """Without titles of fields, which only repeat their names."""

    def field_title_should_be_set(self, schema: object) -> bool:
        """See `GenerateJsonSchema`."""
        return False


@dataclass(frozen=True)
class Route:
    """A route whose handler says what it takes and gives."""

    method: str
    path: str
    handler: Any
    contract: Contract
    access: Access

    @property
    def section(self) -> str:
        """Where it belongs in the documentation."""
        return self.path.split("/")[3] if self.path.startswith(BASE_PATH) else "about"

    @property
    def name(self) -> str:
        """Unique: its section and what it does."""
        return f"{re.sub('[^a-z]', '_', self.section)}_{self.handler.__name__}"

    def types(self) -> Iterator[tuple[str, Mode, Any]]:
        """The types of bodies, by what they are for."""
        given: Sequence[tuple[str, Mode, Any]] = (
            ("body", "validation", self.contract.body),
            ("form", "validation", self.contract.form),
            ("multipart", "validation", self.contract.multipart),
            ("answer", "serialization", self.contract.answer),
            ("events", "serialization", self.contract.events),
        )
        return (one for one in given if one[2] is not None)


def routes(app: web.Application) -> list[Route]:
    """What is documented; HEAD is that of HTTP where there is GET."""
    found = []
    for route in app.router.routes():
        said = contract(route.handler)
        if said is not None and route.resource is not None and route.method != hdrs.METH_HEAD:
            path = route.resource.canonical
            found.append(Route(route.method, path, route.handler, said, access(route.handler)))
    return found


@lru_cache(maxsize=1)
def document(app: web.Application) -> Json:
    """The whole document, for the models that this gateway offers; made once, as that takes a third of a second."""
    known, gateway = routes(app), app[GATEWAY]
    made = {route.name: _bodies(route, gateway) for route in known}
    adapters = [((name, part), mode, TypeAdapter(type_)) for name, parts in made.items() for part, mode, type_ in parts]
    schemas, shared = TypeAdapter.json_schemas(
        [*adapters, ("failure", "serialization", TypeAdapter(Failure))],
        ref_template="#/components/schemas/{model}",
        schema_generator=Untitled,
    )
    paths: dict[str, Json] = {}
    for route in known:
        parts = {part: schemas[(route.name, part), mode] for part, mode, _ in made[route.name]}
        optional = all(_all_optional(type_) for part, _, type_ in made[route.name] if part in KINDS)
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, parts, optional)
    url = gateway.settings.gateway.public_url
    return {
        "openapi": "3.1.0",
        "info": {"title": "T2M", "version": version("t2m"), "description": ABOUT},
        "servers": [{"url": "/" if url is None else str(url).rstrip("/")}],
        "paths": paths,
        "components": {
            "schemas": {name: schema | {"title": name} for name, schema in shared["$defs"].items()},
            "responses": {_error(status): _failure(status) for status in _statuses(known)},
            "securitySchemes": {SECURITY: {"type": "http", "scheme": "bearer"}},
        },
    }


def _bodies(route: Route, gateway: Gateway) -> list[tuple[str, Mode, Any]]:
    return [(part, mode, type_(gateway) if inspect.isfunction(type_) else type_) for part, mode, type_ in route.types()]


def _operation(route: Route, schemas: Mapping[str, Json], optional: bool) -> Json:
    summary, _, description = (inspect.getdoc(route.handler) or "").partition("\n")
    told: Json = {
        "operationId": route.name,
        "tags": [route.section],
        "summary": summary.rstrip("."),
        "description": description.strip(),
        "security": _security(route.access),
        "parameters": [*_path(route.path), *_query(route.contract), *_headers(route.contract)],
        "responses": _successes(route.contract, schemas) | {str(status): _ref(status) for status in errors(route)},
    }
    taken = _request(schemas, optional)
    return told | ({"requestBody": taken} if taken else {})


def _security(wanted: Access) -> list[Json]:
    token: Json = {SECURITY: []}
    return [] if wanted.blind else [{}, token] if wanted.anonymous else [token]


def _path(path: str) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"} | _form(name)}
        for name in VARIABLE.findall(path)
    ]


def _form(name: str) -> Json:
    return {"pattern": f"^{ids.FORMS[name]}$"} if name in ids.FORMS else {}


def _query(said: Contract) -> list[Json]:
    if said.query is None:
        return []
    told, fields = said.query.model_json_schema(schema_generator=Untitled), said.query.model_fields
    return [
        {"name": name, "in": "query", "required": fields[name].is_required(), "schema": _without_null(schema)}
        for name, schema in told["properties"].items()
    ]


def _without_null(schema: Json) -> Json:
    """A parameter is left out, never null."""
    if "anyOf" not in schema:
        return schema
    (told,) = (one for one in schema["anyOf"] if one != {"type": "null"})
    return dict(told)


def _headers(said: Contract) -> list[Json]:
    return [
        {"name": one.name, "in": "header", "description": one.description, "schema": one.schema} for one in said.headers
    ]


def _request(schemas: Mapping[str, Json], optional: bool) -> Json:
    content = {kind: {"schema": schemas[part]} for part, kind in KINDS.items() if part in schemas}
    return {"content": content, "required": not optional} if content else {}


def _all_optional(body: Any) -> bool:  # noqa: ANN401 - a type form
    """Whether a request without a body is as good as one with `{}`."""
    model = inspect.isclass(body) and issubclass(body, BaseModel)
    return model and not any(field.is_required() for field in body.model_fields.values())


def _successes(said: Contract, schemas: Mapping[str, Json]) -> Json:
    content: Json = {kind: {"schema": _file(kind)} for kind in said.media}
    if "events" in schemas:
        content["text/event-stream"] = {"schema": _event(schemas["events"])}
    if "answer" in schemas:
        content["application/json"] = {"schema": (_enveloped if said.enveloped else dict)(schemas["answer"])}
    told: Json = {"description": HTTPStatus(said.status).phrase, "content": content}
    if said.status in LOCATED:
        told["headers"] = {"Location": {"required": True, "schema": {"type": "string"}}}
    more = {str(status): told | {"description": HTTPStatus(status).phrase} for status in said.also}
    for status in BODILESS & more.keys():
        del more[status]["content"]
    return {str(said.status): told} | more


def _file(kind: str) -> Json:
    return {"type": "string"} if kind.startswith("text/") else {"type": "string", "format": "binary"}


def _event(data: Json) -> Json:
    """A server-sent event, of which the answer has any number."""
    text = {"type": "string", "contentMediaType": "application/json", "contentSchema": data}
    known = {"id": {"type": "string"}, "event": {"enum": [str(kind) for kind in EventKind]}, "data": text}
    return {"type": "object", "properties": known, "required": list(known)}


def _enveloped(data: Json) -> Json:
    known = {"success": {"const": True}, "data": data, "message": {"type": "string"}}
    return {"type": "object", "properties": known, "required": ["success", "data"]}


def errors(route: Route) -> list[int]:
    """The statuses of failure that are possible."""
    said, wanted = route.contract, route.access
    reads = said.query or said.body or said.form or said.multipart or said.headers
    follow = {
        400: reads,
        401: not wanted.blind,
        403: wanted.permission or wanted.verified,
        404: VARIABLE.search(route.path),
        408: said.body or said.form or said.multipart,
        413: said.body or said.form or said.multipart,
        415: said.body or said.form or said.multipart,
        429: not wanted.blind,
    }
    return sorted({*said.errors, *ALWAYS, *(status for status, possible in follow.items() if possible)})


def _statuses(known: Sequence[Route]) -> list[int]:
    return sorted({status for route in known for status in errors(route)})


def _error(status: int) -> str:
    return HTTPStatus(status).phrase.replace(" ", "")


def _ref(status: int) -> Json:
    return {"$ref": f"#/components/responses/{_error(status)}"}


def _failure(status: int) -> Json:
    codes = [code for code, usual in STATUS.items() if usual == status] or [Code.VALIDATION_ERROR]
    told: Json = {
        "description": f"{HTTPStatus(status).phrase}: {', '.join(codes)}",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Failure"}}},
    }
    if status in HEADERS:
        told["headers"] = {HEADERS[status]: {"required": True, "schema": {"type": "string"}}}
    return told
