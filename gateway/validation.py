"""Reads what a request carries; everything wrong is refused by name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from gateway.errors import ApiError, Code, invalid
from pipeline.requests import by_field

JSON, FORM, MULTIPART = "application/json", "application/x-www-form-urlencoded", "multipart/form-data"
MAX_BODY = 1 << 20
"""Bytes of a JSON body; the longest valid one has a few kilobytes."""
BODY_S = 20.0
"""How long a body of that size may take to arrive."""
MAX_DEPTH = 32
"""Of a JSON body: values in values. Writers of JSON give up at a few hundred, wherever it is to be written later."""

T = TypeVar("T")


async def arrived(request: web.Request, read: Callable[[], Awaitable[T]]) -> T:
    """The body as `read` reads it, in time.

    Raises:
        ApiError: 408, it takes too long.
        web.HTTPRequestEntityTooLarge: it is, or says it is, longer than `MAX_BODY`.
    """
    if request.content_length is not None and request.content_length > MAX_BODY:
        raise web.HTTPRequestEntityTooLarge(MAX_BODY, request.content_length)
    try:
        async with asyncio.timeout(BODY_S):
            return await read()
    except TimeoutError:
        details = f"The body must arrive within {BODY_S:.0f} seconds"
        raise ApiError(Code.VALIDATION_ERROR, "Request Timeout", details, status=408) from None


def require_type(request: web.Request, content_type: str) -> None:
    """Raises `ApiError` 415 for a body of another type."""
    if request.content_type != content_type:
        details = f"Content-Type must be {content_type}, not {request.content_type}"
        raise ApiError(Code.VALIDATION_ERROR, "Unsupported Media Type", details, status=415)


async def form(request: web.Request) -> Mapping[str, object]:
    """The fields of a form; a request without a body has none.

    Raises:
        ApiError: 415 for another content type, 408 for a slow body, 400 for what is not in its charset.
        web.HTTPRequestEntityTooLarge: it is longer than `MAX_BODY`.
    """
    if not request.can_read_body:
        return {}
    require_type(request, FORM)
    try:
        return await arrived(request, request.post)
    except (UnicodeError, LookupError):  # the charset is the client's choice
        raise invalid({"body": ["Must be in UTF-8, or in the charset it names"]}) from None


async def json_object(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        ApiError: 415 for another content type, 408 for a slow body, 400 for what is no JSON object in UTF-8 or nested
            more than `MAX_DEPTH` deep.
        web.HTTPRequestEntityTooLarge: it is longer than `MAX_BODY`.
    """
    require_type(request, JSON)
    raw = await arrived(request, request.read)
    try:
        body = json.loads(raw)
    except ValueError:
        raise invalid({"body": ["Must be valid JSON in UTF-8"]}) from None
    except RecursionError:
        raise _too_deep() from None
    if not isinstance(body, dict):
        raise invalid({"body": ["Must be a JSON object"]})
    layer: list[Any] = [body]
    for _ in range(MAX_DEPTH):
        inner = (one.values() if isinstance(one, dict) else one for one in layer)
        layer = [value for values in inner for value in values if isinstance(value, dict | list)]
        if not layer:
            return body
    raise _too_deep()


def _too_deep() -> ApiError:
    return invalid({"body": [f"Must be nested at most {MAX_DEPTH} deep"]})


Body = TypeVar("Body", bound=BaseModel)


async def parsed(request: web.Request, model: type[Body]) -> Body:
    """The JSON body as `model`; a request without a body counts as `{}`.

    Raises:
        ApiError: see `json_object`, or 400 with what is wrong, field by field, which never repeats a value.
    """
    given = await json_object(request) if request.can_read_body else {}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise invalid(by_field(error, model.model_fields)) from None
