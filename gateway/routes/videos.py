"""Section "Video Processing"."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from aiohttp import web
from typing_extensions import TypedDict

from gateway import acceptance, hls, idempotency, media
from gateway.acceptance import Accepted
from gateway.access import public, requires
from gateway.auth.base import Permission
from gateway.context import GATEWAY, PRINCIPAL, Gateway
from gateway.contract import operation
from gateway.database import artifacts
from gateway.database.accesses import Kind
from gateway.database.jobs import Job
from gateway.envelope import Success, Time, success, timestamp
from gateway.errors import ApiError, Code, not_found
from gateway.files.serving import DownloadQuery, StreamQuery, ThumbnailQuery, send
from gateway.ids import video_of
from gateway.links import link
from gateway.outlook import Forecast
from gateway.parameters import OneOf
from gateway.renditions import rung, top
from gateway.routes.jobs import JobError, error_view, files, owned
from gateway.validation import json_object
from pipeline.requests import bodies
from pipeline.vocabulary import ArtifactRef, Status

routes = web.RouteTableDef()

FORMATS = ("mp4", "hls")
MP4 = "video/mp4"


class VideoStatus(TypedDict):
    """How far a job is; `queue_position` is 1 for the next, `eta_seconds` counts to its completion."""

    job_id: str
    status: Status
    stage: str
    progress: int
    queue_position: int | None
    eta_seconds: int | None
    created_at: Time
    started_at: Time | None
    completed_at: Time | None
    expires_at: Time | None
    error: JobError | None


class PlayQuery(StreamQuery):
    """What to play; without a format, what the `Accept` header asks for."""

    format: Annotated[str, OneOf(FORMATS)] | None = None


def _bodies(gateway: Gateway) -> Any:  # noqa: ANN401 - a type form
    return bodies(gateway.catalogue, gateway.settings.models.default)


@routes.post("/videos/generate")
@requires(Permission.GENERATE_VIDEOS)
@operation(status=202, body=_bodies, headers=[idempotency.KEY])
async def generate(request: web.Request) -> Success[Accepted]:
    """Accept a job."""
    user_id = request[PRINCIPAL].user_id
    body = await json_object(request)
    attempt = idempotency.read(request, user_id, body)
    answer = await acceptance.accept(request.app[GATEWAY], user_id, body, attempt)
    return answer.response()


@routes.get("/videos/{job_id}/status")
@operation()
async def status(request: web.Request) -> Success[VideoStatus]:
    """How far a job is."""
    job = await owned(request)
    state = job.projection
    forecast = Forecast(None, None) if state.status.final else await request.app[GATEWAY].outlook.of(job)
    return success(
        {
            "job_id": job.id,
            "status": state.status,
            "stage": state.activity,
            "progress": state.percent,
            "queue_position": forecast.position,
            "eta_seconds": forecast.seconds,
            "created_at": timestamp(job.request.created_at),
            "started_at": timestamp(state.started_at),
            "completed_at": timestamp(state.completed_at),
            "expires_at": timestamp(job.expires_at),
            "error": error_view(state.failure),
        }
    )


@routes.get("/videos/{job_id}/download")
@requires(Permission.READ_FILES)
@operation(media=[MP4], **media.RANGED)
async def download(request: web.Request, query: DownloadQuery) -> web.StreamResponse:
    """The highest rendition, as a file."""
    job, published = await _completed(request)
    return await _serve(request, job, top(published), Kind.DOWNLOAD, inline=query.inline)


@routes.get("/videos/{job_id}/stream")
@requires(Permission.READ_FILES)
@operation(media=[MP4, hls.MEDIA_TYPE], **media.RANGED)
async def stream(request: web.Request, query: PlayQuery) -> web.StreamResponse:
    """A rendition, for playing; as HLS where that is asked for."""
    preferred = "hls" if hls.accepts_playlist(request.headers.get("Accept", "")) else "mp4"
    job, published = await _completed(request)
    if (query.format or preferred) == "hls":
        return await _playlist(request, job, published, query.quality)
    return await _serve(request, job, rung(published, query.quality), Kind.STREAM)


@routes.get("/videos/{job_id}/hls/{token}/{name}")
@public
@operation(media=[hls.MEDIA_TYPE, MP4], **media.RANGED | {"errors": [401, 416]})
async def hls_file(request: web.Request) -> web.StreamResponse:
    """A playlist or media file of the HLS folder, for whoever has the token."""
    job_id, name = request.match_info["job_id"], request.match_info["name"]
    gateway = request.app[GATEWAY]
    await gateway.stream_tokens.check(job_id, request.match_info["token"])
    async with gateway.database.read() as connection:
        ref = (await artifacts.of_job(connection, job_id)).get(hls.FOLDER + name)
    if ref is None:
        raise not_found("File", name)
    if ref.media_type == hls.MEDIA_TYPE:
        return await gateway.media.text(request, ref, f"{job_id}-{name}")
    return await gateway.media.serve(request, ref, f"{job_id}-{name}", inline=True)


@routes.get("/videos/{job_id}/thumbnail")
@requires(Permission.READ_FILES)
@operation(media=["image/jpeg"], **media.RANGED)
async def thumbnail(request: web.Request, query: ThumbnailQuery) -> web.StreamResponse:
    """The poster."""
    job, published = await _completed(request)
    return await _serve(request, job, published[f"poster-{query.size}.jpg"], Kind.THUMBNAIL)


@routes.get("/videos/{job_id}/metadata")
@operation()
async def metadata(request: web.Request) -> Success[dict[str, Any]]:
    """What was measured of the video, and how it was made."""
    job = await owned(request)
    _require_completed(job)
    return success(dict(job.media or {}))


async def _completed(request: web.Request) -> tuple[Job, dict[str, ArtifactRef]]:
    job = await owned(request)
    _require_completed(job)
    return job, await files(request, job)


def _require_completed(job: Job) -> None:
    """Raises `ApiError` 404 with where the job stands."""
    state = job.projection
    if state.status is Status.COMPLETED:
        return
    details = {"job_id": job.id, "status": state.status, "stage": state.activity, "progress": state.percent}
    what = f"was {state.status}" if state.status is Status.CANCELLED else state.status
    text = f"There is no video: the job {what}" if state.status.final else f"Video is not ready: {state.activity}"
    raise ApiError(Code.RESOURCE_NOT_FOUND, f"{text}, {state.percent}% done", details)


async def _playlist(
    request: web.Request, job: Job, published: dict[str, ArtifactRef], quality: str
) -> web.StreamResponse:
    """The master playlist with a token in its URIs; `Content-Location` is where players find it without a header."""
    gateway = request.app[GATEWAY]
    stored = published.get(hls.FOLDER + hls.MASTER)
    if stored is None:
        raise not_found("Playlist", job.id)
    content, _ = await asyncio.to_thread(gateway.store.store.get, stored.key)
    folder = f"{hls.FOLDER}{await gateway.stream_tokens.issue(job.id)}/"
    chosen = None if quality == "auto" else rung(published, quality).name.removesuffix(".mp4")
    headers = {
        "Content-Location": link(gateway.settings, f"/videos/{job.id}/{folder}{hls.MASTER}"),
        "Cache-Control": "no-store",
        "Vary": "Accept",
    }
    text = hls.master(content.decode(), folder, chosen)
    return web.Response(text=text, content_type=hls.MEDIA_TYPE, headers=headers)


async def _serve(
    request: web.Request, job: Job, ref: ArtifactRef, kind: Kind, *, inline: bool = True
) -> web.StreamResponse:
    """Counted for the video as a file of its owner."""
    named = ref.model_copy(update={"name": f"{job.id}-{ref.name}"})
    return await send(request, named, kind, file_id=video_of(job.id), user_id=job.request.user_id, inline=inline)
