"""Compresses answers that are text."""

from __future__ import annotations

from functools import lru_cache

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from gateway.negotiation import accepted

TYPES = {"application/json", "application/vnd.apple.mpegurl", "text/html", "text/javascript"}
LEAST = 512
"""Bytes; smaller answers fit into one packet anyway."""


@web.middleware
async def compress(request: web.Request, handler: Handler) -> web.StreamResponse:
    """JSON, playlists and pages, by gzip (what players ask for) where it is accepted; media is compressed already."""
    response = await handler(request)
    if response.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0] in TYPES and not response.prepared:
        response.headers.add(hdrs.VARY, hdrs.ACCEPT_ENCODING)
        if _takes_gzip(request.headers.get(hdrs.ACCEPT_ENCODING, "")) and _worthwhile(response):
            response.enable_compression(web.ContentCoding.gzip)
    return response


def _worthwhile(response: web.StreamResponse) -> bool:
    body = response.body if isinstance(response, web.Response) else None
    whole = isinstance(body, bytes) and len(body) >= LEAST and response.status != 206
    return whole and hdrs.CONTENT_ENCODING not in response.headers


@lru_cache(maxsize=64)  # clients send few different ones, with every request
def _takes_gzip(header: str) -> bool:
    codings = accepted(header)
    return codings.get("gzip", codings.get("*", False))
