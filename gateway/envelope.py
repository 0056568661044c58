"""The documented shape of every answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar, overload

from aiohttp import web
from pydantic import Field
from typing_extensions import TypedDict

from gateway.errors import ApiError, Code

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""What `timestamp` makes."""

T = TypeVar("T")


class Success(web.Response, Generic[T]):
    """An answer that has a `T` in its envelope."""


class Flat(web.Response, Generic[T]):
    """An answer that is a `T`."""


class Problem(TypedDict):
    """What went wrong; `details` is more of `message`, or says what is wrong by field."""

    code: Code
    message: str
    details: str | Mapping[str, Any]


class Failure(TypedDict):
    """The answer of every request that fails."""

    success: Literal[False]
    error: Problem


def success(
    data: T, message: str | None = None, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Success[T]:
    """`{"success": true, "data": …}` with `message` where there is something to say."""
    body = {"success": True, "data": data} | ({} if message is None else {"message": message})
    return Success(**_json(body, status, headers))


def flat(body: T) -> Flat[T]:
    """An answer without the envelope, as the document shows them for `/auth/*`."""
    return Flat(**_json(body, 200, None))


def failure(error: ApiError) -> web.Response:
    """`{"success": false, "error": {code, message, details}}`."""
    problem: Problem = {"code": error.code, "message": error.message, "details": error.details}
    body: Failure = {"success": False, "error": problem}
    return web.Response(**_json(body, error.status, error.headers))


@overload
def timestamp(at: datetime) -> Time: ...


@overload
def timestamp(at: datetime | None) -> Time | None: ...


def timestamp(at: datetime | None) -> Time | None:
    """ISO 8601 in UTC with "Z", to the millisecond."""
    return None if at is None else at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(body: object, status: int, headers: Mapping[str, str] | None) -> dict[str, Any]:
    """Arguments of a response."""
    text = json.dumps(body, ensure_ascii=False, allow_nan=False)
    told = {"Cache-Control": "no-store"} | dict(headers or {})
    return {"text": text, "status": status, "headers": told, "content_type": "application/json"}
