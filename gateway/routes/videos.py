"""Section "Video Processing"."""

from __future__ import annotations

import asyncio

from aiohttp import web

from gateway import acceptance, hls, idempotency
from gateway.access import public, requires
from gateway.auth.base import Permission
from gateway.context import GATEWAY, PRINCIPAL
from gateway.database import artifacts
from gateway.database.jobs import Job
from gateway.envelope import success, timestamp
from gateway.errors import ApiError, Code, not_found
from gateway.links import link
from gateway.outlook import Forecast
from gateway.renditions import rung, top
from gateway.routes.jobs import error_view, files, owned
from gateway.validation import choice, flag, json_object
from pipeline.vocabulary import ArtifactRef, Status

routes = web.RouteTableDef()

QUALITIES = ("auto", "720p", "1080p")
FORMATS = ("mp4", "hls")
THUMBNAIL_SIZES = ("small", "medium", "large")


@routes.post("/videos/generate")
@requires(Permission.GENERATE_VIDEOS)
async def generate(request: web.Request) -> web.Response:
    """Accept a job."""
    body = await json_object(request)
    attempt = idempotency.read(request, body)
    answer = await acceptance.accept(request.app[GATEWAY], request[PRINCIPAL].user_id, body, attempt)
    return answer.response()


@routes.get("/videos/{job_id}/status")
async def status(request: web.Request) -> web.Response:
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
async def download(request: web.Request) -> web.StreamResponse:
    """The highest rendition, as a file."""
    inline = flag(request, "inline")
    job, published = await _completed(request)
    return await _serve(request, job, top(published), inline=inline)


@routes.get("/videos/{job_id}/stream")
@requires(Permission.READ_FILES)
async def stream(request: web.Request) -> web.StreamResponse:
    """A rendition, for playing; as HLS where that is asked for."""
    quality = choice(request, "quality", QUALITIES, "auto")
    preferred = "hls" if hls.accepts_playlist(request.headers.get("Accept", "")) else "mp4"
    form = choice(request, "format", FORMATS, preferred)
    job, published = await _completed(request)
    if form == "hls":
        return await _playlist(request, job, published, quality)
    return await _serve(request, job, rung(published, quality), inline=True)


@routes.get("/videos/{job_id}/hls/{token}/{name}")
@public
async def hls_file(request: web.Request) -> web.StreamResponse:
    """A playlist or media file of the HLS folder, for whoever has the token."""
    job_id, name = request.match_info["job_id"], request.match_info["name"]
    gateway = request.app[GATEWAY]
    await gateway.stream_tokens.check(job_id, request.match_info["token"])
    async with gateway.database.read() as connection:
        ref = (await artifacts.of_job(connection, job_id)).get(hls.FOLDER + name)
    if ref is None:
        raise not_found("File", name)
    return await gateway.media.serve(request, ref, f"{job_id}-{name}", inline=True)


@routes.get("/videos/{job_id}/thumbnail")
@requires(Permission.READ_FILES)
async def thumbnail(request: web.Request) -> web.StreamResponse:
    """The poster."""
    size = choice(request, "size", THUMBNAIL_SIZES, "medium")
    job, published = await _completed(request)
    return await _serve(request, job, published[f"poster-{size}.jpg"], inline=True)


@routes.get("/videos/{job_id}/metadata")
async def metadata(request: web.Request) -> web.Response:
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


async def _serve(request: web.Request, job: Job, ref: ArtifactRef, *, inline: bool) -> web.StreamResponse:
    return await request.app[GATEWAY].media.serve(request, ref, f"{job.id}-{ref.name}", inline=inline)
