"""The models there are to choose from; the API document has no such section."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from aiohttp import web

from config.catalogue import ModelEntry
from gateway.context import GATEWAY
from gateway.envelope import success
from pipeline.requests import parameters

routes = web.RouteTableDef()

SHOWN = ("type", "minimum", "maximum", "exclusiveMaximum", "minLength", "maxLength", "enum", "default")
"""Words of JSON Schema that a limit is told in."""


@routes.get("/models")
async def listing(request: web.Request) -> web.Response:
    """The catalogue, the default model first."""
    gateway = request.app[GATEWAY]
    default = gateway.settings.models.default
    entries = sorted(gateway.catalogue, key=lambda entry: entry.name != default)
    models = [_view(entry) | {"renderers": await gateway.outlook.renderers(entry.name)} for entry in entries]
    return success({"models": models, "default": default})


def _view(entry: ModelEntry) -> dict[str, Any]:
    native = {
        ratio: {"width": size.shown[0], "height": size.shown[1], "fps": entry.fps}
        for ratio, size in entry.sizes.items()
    }
    return {
        "name": entry.name,
        "purpose": entry.purpose,
        "revision": entry.revision,
        "licence": entry.licence,
        "audio": entry.audio,
        "native": native,
        "parameters": _limits(entry.model_dump_json()),
    }


@lru_cache(maxsize=64)
def _limits(row: str) -> dict[str, dict[str, Any]]:
    """What the body of a request may hold, from the very class that checks it."""
    schema = parameters(ModelEntry.model_validate_json(row)).model_json_schema()
    required = schema.get("required", [])
    return {name: _limit(field) | {"required": name in required} for name, field in schema["properties"].items()}


def _limit(field: dict[str, Any]) -> dict[str, Any]:
    alternatives = [one for one in field.get("anyOf", []) if one.get("type") != "null"]
    told = field | (alternatives[0] if alternatives else {})
    if "const" in told:
        told["enum"] = [told["const"]]
    return {word: told[word] for word in SHOWN if word in told}
