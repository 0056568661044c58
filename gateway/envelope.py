"""The documented shape of every answer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar, overload

from aiohttp import web
from pydantic import Field
from pydantic_core import to_json
from typing_extensions import TypedDict

from gateway.errors import ApiError, Code

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""What `timestamp` makes."""

JSON = {"Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-store"}

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
    return Success(body=enveloped(data, message), status=status, headers=JSON | dict(headers or {}))


def enveloped(data: object, message: str | None = None) -> bytes:
    """The body of `success`, to be kept and answered by `sealed`."""
    return _json({"success": True, "data": data} | ({} if message is None else {"message": message}))


def sealed(body: bytes) -> Success[Any]:
    """An answer whose body `enveloped` made."""
    return Success(body=body, headers=JSON)


def flat(body: T) -> Flat[T]:
    """An answer without the envelope, as the document shows them for `/auth/*`."""
    return Flat(body=_json(body), headers=JSON)


def failure(error: ApiError) -> web.Response:
    """`{"success": false, "error": {code, message, details}}`."""
    problem: Problem = {"code": error.code, "message": error.message, "details": error.details}
    body: Failure = {"success": False, "error": problem}
    return web.Response(body=_json(body), status=error.status, headers=JSON | error.headers)


@overload
def timestamp(at: datetime) -> Time: ...


@overload
def timestamp(at: datetime | None) -> Time | None: ...


def timestamp(at: datetime | None) -> Time | None:
    """ISO 8601 in UTC with "Z", to the millisecond."""
    return None if at is None else at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(body: object) -> bytes:
    return to_json(body, inf_nan_mode="null")
