"""Lets pages of configured origins call the API from a browser."""

from __future__ import annotations

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from gateway.context import GATEWAY

METHODS = "GET, HEAD, POST, PATCH, PUT, DELETE"
REQUEST_HEADERS = (
    "Authorization, Content-Type, Idempotency-Key, If-None-Match, If-Range, Last-Event-ID, Range, X-Request-ID"
)
EXPOSED = (
    "Content-Disposition, Content-Location, Content-Range, ETag, Idempotent-Replayed, Location, RateLimit, "
    "RateLimit-Policy, Retry-After, X-Request-ID"
)
PREFLIGHT_KEPT_S = 7200
"""Browsers keep a preflight's answer at most so long."""


@web.middleware
async def preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer a browser that asks whether it may send a request."""
    asked = request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
    if not asked or _allowed(request) is None:
        return await handler(request)
    headers = {
        hdrs.ACCESS_CONTROL_ALLOW_METHODS: METHODS,
        hdrs.ACCESS_CONTROL_ALLOW_HEADERS: REQUEST_HEADERS,
        hdrs.ACCESS_CONTROL_MAX_AGE: str(PREFLIGHT_KEPT_S),
    }
    return web.Response(status=204, headers=headers)


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """For `on_response_prepare`, where origins are configured.

    Credentials are not allowed: tokens come in a header, never in a cookie.
    """
    response.headers.add(hdrs.VARY, "Origin")
    origin = _allowed(request)
    if origin is not None:
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED


def _allowed(request: web.Request) -> str | None:
    """The request's origin, if its pages may call."""
    origins, origin = request.app[GATEWAY].settings.gateway.cors_origins, request.headers.get(hdrs.ORIGIN)
    return origin if origin is not None and (origin in origins or "*" in origins) else None
