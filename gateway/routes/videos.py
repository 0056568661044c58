"""Section "Video Processing"."""

from __future__ import annotations

from aiohttp import web

from gateway import acceptance, idempotency
from gateway.access import requires
from gateway.auth.base import Permission
from gateway.context import GATEWAY, PRINCIPAL
from gateway.database.jobs import Job
from gateway.envelope import success, timestamp
from gateway.errors import ApiError, Code
from gateway.outlook import Forecast
from gateway.renditions import rung, top
from gateway.routes.jobs import error_view, files, owned
from gateway.validation import choice, flag, json_object
from pipeline.vocabulary import ArtifactRef, Status

routes = web.RouteTableDef()

QUALITIES = ("auto", "720p", "1080p")
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
    """A rendition, for playing."""
    quality = choice(request, "quality", QUALITIES, "auto")
    job, published = await _completed(request)
    return await _serve(request, job, rung(published, quality), inline=True)


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


async def _serve(request: web.Request, job: Job, ref: ArtifactRef, *, inline: bool) -> web.StreamResponse:
    return await request.app[GATEWAY].media.serve(request, ref, f"{job.id}-{ref.name}", inline=inline)
