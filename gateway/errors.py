"""The API's nine error codes and how errors of the parts below become them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from http import HTTPStatus
from typing import Any

from aiohttp import web
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from config.errors import Fault, T2MError
from gateway.database.engine import away
from pipeline.errors import InvalidRequest

Details = str | Mapping[str, Any]


class Code(StrEnum):
    """Values of `error.code`."""

    AUTH_REQUIRED = "AUTH_REQUIRED"
    AUTH_INVALID = "AUTH_INVALID"
    AUTH_EXPIRED = "AUTH_EXPIRED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_NOT_FOUND = "RESOURCE_NOT_FOUND"
    VALIDATION_ERROR = "VALIDATION_ERROR"
    RATE_LIMIT_EXCEEDED = "RATE_LIMIT_EXCEEDED"
    SERVER_ERROR = "SERVER_ERROR"
    SERVICE_UNAVAILABLE = "SERVICE_UNAVAILABLE"


STATUS = {
    Code.AUTH_REQUIRED: 401,
    Code.AUTH_INVALID: 401,
    Code.AUTH_EXPIRED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_NOT_FOUND: 404,
    Code.VALIDATION_ERROR: 400,
    Code.RATE_LIMIT_EXCEEDED: 429,
    Code.SERVER_ERROR: 500,
    Code.SERVICE_UNAVAILABLE: 503,
}
CHALLENGES = {
    Code.AUTH_REQUIRED: "Bearer",
    Code.AUTH_INVALID: 'Bearer error="invalid_token"',
    Code.AUTH_EXPIRED: 'Bearer error="invalid_token"',
}
"""What every 401 says in `WWW-Authenticate` (RFC 6750)."""
RETRY_AFTER_S = 5
"""What a client is told to wait while a part is down; reconnects take about as long."""


class DatabaseError(T2MError):
    """The database cannot be reached or migrated."""

    def __init__(self) -> None:
        super().__init__("The database cannot be used.", remedy="Check that it runs and that `database.url` is right.")


class AddressError(T2MError):
    """The gateway cannot listen where it should."""


class ApiError(Exception):
    """An answer with the error envelope.

    Args:
        message: one sentence for people.
        details: more of it, or what is wrong by field.
        status: where it is not the code's own (405, 413, 415, 416).
    """

    def __init__(
        self,
        code: Code,
        message: str,
        details: Details,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details
        self.status = status or STATUS[code]
        self.headers = dict(headers or {})
        if code in CHALLENGES:
            self.headers["WWW-Authenticate"] = CHALLENGES[code]


def invalid(fields: Mapping[str, list[str]]) -> ApiError:
    """400 with what is wrong, field by field."""
    return ApiError(Code.VALIDATION_ERROR, "Request validation failed", fields)


def wrong_state(message: str, status: str) -> ApiError:
    """400: the resource is in a state in which this cannot be done."""
    return ApiError(Code.VALIDATION_ERROR, message, {"status": [f"Is {status}"]})


def not_found(kind: str, identifier: str) -> ApiError:
    """404 that does not tell whether somebody else has such a resource."""
    details = f"{kind} with ID '{identifier}' does not exist or you don't have access"
    return ApiError(Code.RESOURCE_NOT_FOUND, f"{kind} not found", details)


def forbidden(details: str) -> ApiError:
    """403: the user is known and may not do this."""
    return ApiError(Code.PERMISSION_DENIED, "Insufficient permissions", details)


def unavailable(details: Details) -> ApiError:
    """503: a part the request needs is down."""
    message = "Service temporarily unavailable"
    return ApiError(Code.SERVICE_UNAVAILABLE, message, details, headers={"Retry-After": str(RETRY_AFTER_S)})


def translate(error: Exception) -> ApiError | None:
    """The answer to an expected error; None for one that nobody foresaw."""
    match error:
        case ApiError():
            return error
        case InvalidRequest():
            return invalid(error.fields)
        case web.HTTPException():
            return _from_http(error)
        case T2MError(fault=Fault.TRANSIENT | Fault.RESOURCE):
            return unavailable("A part this request needs cannot be reached. Try again in a few seconds.")
        case _ if _database_away(error):
            return unavailable("The database cannot be reached. Try again in a few seconds.")
    return None


def _database_away(error: Exception) -> bool:
    lost = isinstance(error, DBAPIError) and away(error)
    return lost or isinstance(error, InterfaceError | OperationalError | PoolTimeout | OSError)


def _from_http(error: web.HTTPException) -> ApiError:
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    if error.status == HTTPStatus.NOT_FOUND:
        return ApiError(Code.RESOURCE_NOT_FOUND, "Resource not found", "There is no such endpoint.")
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return ApiError(Code.SERVER_ERROR, "Internal server error", error.reason)
    details = f"Allowed: {headers['Allow']}" if headers else error.text or error.reason
    return ApiError(Code.VALIDATION_ERROR, error.reason, details, status=error.status, headers=headers)
