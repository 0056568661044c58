"""The documented shape of every answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from gateway.errors import ApiError


def success(
    data: Mapping[str, Any], message: str | None = None, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """`{"success": true, "data": …}` with `message` where there is something to say."""
    body = {"success": True, "data": data} | ({} if message is None else {"message": message})
    return _json(body, status, headers)


def flat(body: Mapping[str, Any]) -> web.Response:
    """An answer without the envelope, as the document shows them for `/auth/*`."""
    return _json(body, 200, None)


def failure(error: ApiError) -> web.Response:
    """`{"success": false, "error": {code, message, details}}`."""
    body = {"code": error.code, "message": error.message, "details": error.details}
    return _json({"success": False, "error": body}, error.status, error.headers)


def timestamp(at: datetime | None) -> str | None:
    """ISO 8601 in UTC with "Z", to the millisecond."""
    return None if at is None else at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(body: Mapping[str, Any], status: int, headers: Mapping[str, str] | None) -> web.Response:
    text = json.dumps(body, ensure_ascii=False, allow_nan=False)
    return web.json_response(text=text, status=status, headers={"Cache-Control": "no-store"} | dict(headers or {}))
