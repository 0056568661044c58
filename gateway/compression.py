"""Compresses answers that are text."""

from __future__ import annotations

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

TYPES = {"application/json", "application/vnd.apple.mpegurl", "text/html", "text/javascript"}
LEAST = 512
"""Bytes; smaller answers fit into one packet anyway."""


@web.middleware
async def compress(request: web.Request, handler: Handler) -> web.StreamResponse:
    """JSON, playlists and pages, as the client accepts; media is compressed already."""
    response = await handler(request)
    if isinstance(response, web.Response) and response.content_type in TYPES and not response.prepared:
        response.headers.add(hdrs.VARY, hdrs.ACCEPT_ENCODING)
        asked = hdrs.ACCEPT_ENCODING in request.headers
        whole = isinstance(response.body, bytes) and len(response.body) >= LEAST and response.status != 206
        if asked and whole and hdrs.CONTENT_ENCODING not in response.headers:
            response.enable_compression()
    return response
