"""What happens around every handler: request id, measurement, errors, authentication. Outermost first."""

from __future__ import annotations

import logging
import re
import time
from http import HTTPStatus

import structlog
import uuid_utils
from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.access import Access, access
from gateway.auth.base import Authenticator, Principal, TokenExpiredError, TokenInvalidError
from gateway.compression import compress
from gateway.context import GATEWAY, PRINCIPAL, REQUEST_ID
from gateway.envelope import failure
from gateway.errors import ApiError, Code, forbidden, translate
from gateway.limits import policy
from gateway.limits.limiter import Pass, told
from gateway.limits.policy import Limit
from gateway.links import BASE_PATH, client_address

log = structlog.get_logger(__name__)
LEVEL = logging.getLogger(__name__)
"""Where structlog's lines go: what its own loggers are asked takes as long as a line that nobody wants."""

HEADER = "X-Request-ID"
ACCEPTED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
UNKNOWN_ROUTE = "unknown"


@web.middleware
async def identify(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request an id, the client's own if it is well formed, for the answer and for every log line."""
    given = request.headers.get(HEADER)
    request_id = given if given and ACCEPTED_ID.fullmatch(given) else uuid_utils.uuid4().hex
    request[REQUEST_ID] = request_id
    structlog.contextvars.bind_contextvars(request_id=request_id)  # each request is a task of its own
    return await handler(request)


async def add_headers(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """For `on_response_prepare`, so that streamed answers have them too."""
    headers = response.headers
    headers[HEADER] = request.get(REQUEST_ID, "")
    headers["X-Content-Type-Options"] = "nosniff"
    headers.update(policy.headers(told.get() or ()))


@web.middleware
async def measure(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count, time and log the answer, by the template of its route."""
    began = time.perf_counter()
    gateway, route = request.app[GATEWAY], _route(request)
    traffic = gateway.traffic
    traffic.under_way += 1
    try:
        response = await handler(request)
    finally:
        traffic.under_way -= 1
    seconds = time.perf_counter() - began
    traffic.add(response.status, seconds)
    if traffic.ending:
        response.force_close()
    method = request.method if route != UNKNOWN_ROUTE else "any"
    gateway.metrics.answered(method, route, response.status, seconds)
    if LEVEL.isEnabledFor(logging.INFO):
        log.info(
            "request",
            method=request.method,
            route=route,
            status=response.status,
            seconds=round(seconds, 4),
            client=client_address(request, gateway.settings.gateway.trusted_proxies),
        )
    return response


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error in the documented envelope; of an unforeseen one the client learns nothing but the request's id."""
    try:
        return await handler(request)
    except TokenInvalidError:  # the provider no longer knows the user
        return failure(_unfit())
    except Exception as error:  # noqa: BLE001 - it is logged there
        return failure(explained(request, error))


def explained(request: web.Request, error: Exception) -> ApiError:
    """What the client is told of an error, and the log of one that is not the client's."""
    known = translate(error)
    if known is None:
        log.error("unforeseen error", route=_route(request), exc_info=error)
        details = f"The error was logged. Its request id is {request[REQUEST_ID]}."
        return ApiError(Code.SERVER_ERROR, "Internal server error", details)
    if known.status == HTTPStatus.SERVICE_UNAVAILABLE:
        log.warning("unavailable", route=_route(request), error=repr(error))
    return known


@web.middleware
async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let those pass whom the route's handler lets (see `gateway.access`), as often as their limits allow.

    A request counts for its user, or for its address if nobody knows whose it is. Public routes (probes, signed media)
    do not count, nor do answers the client had already (304). Unknown routes are answered 404 below.
    """
    told.set([])
    wanted = access(request.match_info.handler)
    if request.match_info.http_exception is not None or wanted.blind:
        return await handler(request)
    principal = None
    try:
        if not wanted.anonymous or "Authorization" in request.headers:
            principal = request[PRINCIPAL] = await _principal(request)
    finally:  # who fails to authenticate counts, too
        passed = await _count(request, principal)
    if principal is not None:
        await _authorise(principal, wanted, request.app[GATEWAY].authenticator)
    response = await handler(request)
    if response.status == HTTPStatus.NOT_MODIFIED:
        await passed.void()
    return response


async def _principal(request: web.Request) -> Principal:
    try:
        return await request.app[GATEWAY].tokens.principal(_bearer(request))
    except TokenExpiredError:
        raise ApiError(Code.AUTH_EXPIRED, "Authentication token expired", "Get a new token") from None
    except TokenInvalidError:
        raise _unfit() from None


async def _count(request: web.Request, principal: Principal | None) -> Pass:
    """Raises `ApiError` 429."""
    gateway = request.app[GATEWAY]
    which = Limit.SYSTEM if _route(request).startswith(f"{BASE_PATH}/system/") else Limit.GENERAL
    if principal is not None:
        return await gateway.limiter.admit(which, principal.user_id)
    return await gateway.limiter.admit_stranger(
        which, client_address(request, gateway.settings.gateway.trusted_proxies)
    )


async def _authorise(principal: Principal, wanted: Access, authenticator: Authenticator) -> None:
    """Raises `ApiError` 403 for what the user may not do."""
    if wanted.permission is not None and wanted.permission not in principal.permissions:
        raise forbidden(f"This needs the permission {wanted.permission}")
    if wanted.verified and not (await authenticator.profile(principal)).email_verified:
        raise forbidden("This needs a verified e-mail address")


def _bearer(request: web.Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        details = "Send the header Authorization: Bearer <your-token>"
        raise ApiError(Code.AUTH_REQUIRED, "Authentication required", details)
    return token.strip()


def _unfit() -> ApiError:
    details = "Token is malformed or was not issued for this service"
    return ApiError(Code.AUTH_INVALID, "Invalid authentication token", details)


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return UNKNOWN_ROUTE if resource is None else resource.canonical


ALL = (identify, measure, compress, answer_errors, admit)
