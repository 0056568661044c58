"""Sends files to those who may have them, and counts it."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web

from gateway.context import GATEWAY
from gateway.database import accesses
from gateway.database.accesses import Kind
from gateway.files.kinds import INLINE
from gateway.files.library import THUMBNAIL_SIZES
from gateway.parameters import Flag, OneOf, Parameters
from pipeline.vocabulary import ArtifactRef

QUALITIES = ("auto", "720p", "1080p")


class DownloadQuery(Parameters):
    """Whether to show a file in the browser or to keep it."""

    inline: Flag = False


class StreamQuery(Parameters):
    """In which quality to play a video."""

    quality: Annotated[str, OneOf(QUALITIES)] = "auto"


class ThumbnailQuery(Parameters):
    """How large a picture."""

    size: Annotated[str, OneOf(THUMBNAIL_SIZES)] = "medium"


async def send(
    request: web.Request,
    ref: ArtifactRef,
    kind: Kind,
    *,
    file_id: str,
    user_id: str,
    inline: bool = True,
    signed: bool = False,
    charset: str | None = None,
) -> web.StreamResponse:
    """Answer with `ref`, part of a user's file; what a browser might run is always a download."""
    gateway = request.app[GATEWAY]
    if gateway.media.begins(request, ref):
        async with gateway.database.write() as connection:
            await accesses.note(connection, file_id, user_id, kind, signed=signed)
    return await gateway.media.serve(
        request, ref, ref.name, inline=inline and ref.media_type in INLINE, charset=charset
    )
