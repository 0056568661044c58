"""The API described for programs (OpenAPI), and for people, by a page that needs nothing from elsewhere.

For anybody, but counted: these answers are long.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from aiohttp import web

from gateway.access import optional
from gateway.contract import operation
from gateway.envelope import Flat, flat
from gateway.errors import not_found
from gateway.openapi import document

OWN, SWAGGER = files("gateway") / "docs", files("swagger_ui") / "static"
PARTS = {
    "start.js": (OWN, "text/javascript"),
    "swagger-ui-bundle.js": (SWAGGER, "text/javascript"),
    "swagger-ui.css": (SWAGGER, "text/css"),
    "favicon-32x32.png": (SWAGGER, "image/png"),
}
POLICY = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src *"
"""The page may call the API wherever `gateway.public_url` says it is, and load nothing from there."""


@optional
@operation()
async def description(request: web.Request) -> Flat[dict[str, Any]]:
    """This document."""
    return flat(document(request.app))


@optional
@operation(media=["text/html"])
async def page(request: web.Request) -> web.Response:
    """The documentation."""
    text = (OWN / "page.html").read_text(encoding="utf-8")
    return web.Response(text=text, content_type="text/html", headers={"Content-Security-Policy": POLICY})


@optional
@operation(media=sorted({kind for _, kind in PARTS.values()}))
async def part(request: web.Request) -> web.Response:
    """What the documentation page is made of."""
    name = request.match_info["name"]
    if name not in PARTS:
        raise not_found("File", name)
    headers = {"Cache-Control": "public, max-age=3600"}
    return web.Response(body=_content(name), content_type=PARTS[name][1], headers=headers)


@cache
def _content(name: str) -> bytes:
    return (PARTS[name][0] / name).read_bytes()
