"""The models there are to choose from; the API document has no such section."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from aiohttp import web
from typing_extensions import TypedDict

from config.catalogue import ModelEntry
from gateway.context import GATEWAY
from gateway.contract import operation
from gateway.envelope import Success, success
from pipeline.requests import parameters

routes = web.RouteTableDef()

SHOWN = ("type", "minimum", "maximum", "exclusiveMaximum", "minLength", "maxLength", "enum", "default")
"""Words of JSON Schema that a limit is told in."""


class Native(TypedDict):
    """What a model really draws."""

    width: int
    height: int
    fps: float


class Model(TypedDict):
    """A model.

    `parameters` are the fields of `POST /videos/generate` with their limits, in words of JSON Schema; `renderers` is
    how many workers have it.
    """

    name: str
    purpose: str
    revision: str
    licence: str
    audio: bool
    native: dict[str, Native]
    parameters: dict[str, dict[str, Any]]
    renderers: int


class Models(TypedDict):
    """All models and the name of the one that is used where none is named."""

    models: list[Model]
    default: str


@routes.get("/models")
@operation()
async def listing(request: web.Request) -> Success[Models]:
    """The catalogue, the default model first."""
    gateway = request.app[GATEWAY]
    default = gateway.settings.models.default
    entries = sorted(gateway.catalogue, key=lambda entry: entry.name != default)
    models = [_view(entry, await gateway.outlook.renderers(entry.name)) for entry in entries]
    return success({"models": models, "default": default})


def _view(entry: ModelEntry, renderers: int) -> Model:
    native: dict[str, Native] = {
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
        "renderers": renderers,
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
