"""Section "Job Management"."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextlib import aclosing, suppress
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import Field
from sqlalchemy.exc import SQLAlchemyError
from typing_extensions import TypedDict

from gateway import ids, lifecycle, sse
from gateway.access import requires
from gateway.auth.base import Permission
from gateway.context import GATEWAY, PRINCIPAL, Gateway
from gateway.contract import Header, operation
from gateway.database import artifacts, events, jobs
from gateway.database.jobs import Job, Wanted
from gateway.envelope import Success, Time, enveloped, sealed, success, timestamp
from gateway.errors import invalid, not_found, wrong_state
from gateway.logbook import EventView, LogLine, log_line
from gateway.pagination import Listing, Paged, paginated
from gateway.parameters import LARGEST, WHOLE, Moment, OneOf, Parameters
from gateway.renditions import top
from pipeline.vocabulary import ArtifactRef, Failure, JobRequest, Stage, Status

routes = web.RouteTableDef()

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
SORT_KEYS = tuple(f"{sign}{name}" for name in jobs.SORTS for sign in ("", "-"))
STREAM_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold events back
}
HEARTBEAT_S = 15.0
"""Proxies close connections that are silent for longer; 30 s is the shortest default known."""
STREAM_S = 3600.0
"""Longest stream; clients come back by themselves, and their token is checked again."""
LAST_EVENT_ID = r"^[0-9]{0,9}$"
RESUME = Header("Last-Event-ID", "Resume after this event.", {"type": "string", "pattern": LAST_EVENT_ID})


class JobsQuery(Paged):
    """Which of the user's jobs to list, and in which order: with "-" in front, the greatest first."""

    status: Annotated[str, OneOf(tuple(Status))] | None = None
    type: Annotated[str, OneOf((jobs.VIDEO_GENERATION,))] | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None
    sort: Annotated[str, OneOf(SORT_KEYS)] = Wanted.sort


class LogsQuery(Parameters):
    """Which lines of the log to show."""

    level: Annotated[str, OneOf(LEVELS)] | None = None
    limit: Annotated[int, Field(ge=1, le=1000), WHOLE] = 100
    offset: Annotated[int, Field(ge=0, le=LARGEST), WHOLE] = 0


class EventsQuery(Parameters):
    """Where to resume, for clients that cannot set the header `Last-Event-ID`."""

    last_event_id: Annotated[str, Field(pattern=LAST_EVENT_ID)] | None = None


class Asked(TypedDict):
    """What was asked, by the names of the request body, defaults included."""

    prompt: str
    duration: float
    negative_prompt: str
    model: str
    quality: str
    fps: int
    aspect_ratio: str
    seed: int
    steps: int
    guidance: float
    priority: str
    metadata: dict[str, Any]
    webhook_url: str | None
    expires_in: int | None


class Result(TypedDict):
    """What a job made."""

    file_id: str
    file_size: int
    thumbnail_url: str


class JobError(TypedDict):
    """Why a job failed: `code` is stable, for programs; the rest is for people."""

    stage: Stage
    code: str
    message: str
    remedy: str


class JobView(TypedDict):
    """A job in full; times are null before they come, `duration` is in seconds."""

    id: str
    type: str
    status: Status
    stage: str
    progress: int
    created_at: Time
    started_at: Time | None
    completed_at: Time | None
    expires_at: Time | None
    duration: float | None
    parameters: Asked
    reused_from: str | None
    result: Result | None
    error: JobError | None


class Deleted(TypedDict):
    """What is gone."""

    id: str
    deleted: Literal[True]


class Cancelled(TypedDict):
    """How far a job had come."""

    id: str
    status: Status
    stage: str
    progress: int
    completed_at: Time | None


class Logs(TypedDict):
    """Lines of a job's log, and whether there are more after them."""

    logs: list[LogLine]
    total_logs: int
    has_more: bool


async def owned(request: web.Request) -> Job:
    """The job of the path. Raises `ApiError` 404 if there is none or it is another user's."""
    job_id = ids.given(request, "job_id")
    job = await request.app[GATEWAY].lookup.find(job_id, request[PRINCIPAL].user_id)
    if job is None:
        raise not_found("Job", job_id)
    return job


async def files(request: web.Request, job: Job) -> dict[str, ArtifactRef]:
    """What a completed job published, by name; that never changes, so it may come from the cache.

    Raises `ApiError` 404 if the job has been deleted since it was read.
    """
    gateway, user_id = request.app[GATEWAY], job.request.user_id
    published = await gateway.cache.files(user_id, job.id)
    if published is None:
        async with gateway.database.read() as connection:
            published = await artifacts.of_job(connection, job.id)
        if not published:
            raise not_found("Job", job.id)
        await gateway.cache.keep_files(user_id, job.id, published)
    return published


@routes.get("/jobs")
@operation()
async def listing(request: web.Request, query: JobsQuery) -> Success[Listing[JobView]]:
    """A page of the user's jobs, each as `GET /jobs/{job_id}` shows it."""
    page, wanted = query.wanted, Wanted(**query.model_dump(exclude=set(Paged.model_fields)))
    user_id = request[PRINCIPAL].user_id
    async with request.app[GATEWAY].database.read() as connection:
        found, total = await jobs.search(connection, user_id, wanted, limit=page.size, offset=page.offset)
        completed = [job.id for job in found if job.projection.status is Status.COMPLETED]
        published = await artifacts.videos(connection, completed)
    return success(paginated([view(job, published.get(job.id, {})) for job in found], page, total))


@routes.get("/jobs/{job_id}")
@operation()
async def details(request: web.Request) -> Success[JobView]:
    """Everything about a job."""
    job = await owned(request)
    if job.projection.status is Status.COMPLETED:
        return success(view(job, await files(request, job)))
    return sealed(job.once(_unpublished))


@routes.delete("/jobs/{job_id}")
@requires(Permission.GENERATE_VIDEOS)
@operation(errors=[400])
async def delete(request: web.Request) -> Success[Deleted]:
    """Remove a job and its data; refused while it is running."""
    job = await owned(request)
    if not job.projection.status.final:
        raise wrong_state("A running job cannot be deleted; cancel it first", job.projection.status)
    await lifecycle.delete(request.app[GATEWAY], job.id)
    return success({"id": job.id, "deleted": True}, "Job deleted successfully")


@routes.post("/jobs/{job_id}/cancel")
@requires(Permission.GENERATE_VIDEOS)
@operation(errors=[400])
async def cancel(request: web.Request) -> Success[Cancelled]:
    """Stop a job: one that waits never runs, one that runs stops within a denoising step."""
    job = await owned(request)
    state = job.projection
    if not state.status.final:
        final = await lifecycle.cancel(request.app[GATEWAY], job.id, job.request.user_id)
        state = (await owned(request)).projection
        if final.status is Status.CANCELLED:
            return success(
                {
                    "id": job.id,
                    "status": state.status,
                    "stage": state.activity,
                    "progress": state.percent,
                    "completed_at": timestamp(state.completed_at),
                },
                "Job cancelled successfully",
            )
    raise wrong_state(f"Job cannot be cancelled: it is already {state.status}", state.status)


@routes.get("/jobs/{job_id}/logs")
@operation()
async def logs(request: web.Request, query: LogsQuery) -> Success[Logs]:
    """What workers said about a job, oldest first."""
    job = await owned(request)
    async with request.app[GATEWAY].database.read() as connection:
        entries, total = await events.page(connection, job.id, **query.model_dump())
    lines = [log_line(entry) for entry in entries]
    return success({"logs": lines, "total_logs": total, "has_more": query.offset + len(lines) < total})


@routes.get("/jobs/{job_id}/events")
@operation(events=EventView, headers=[RESUME], also=[204])
async def stream(request: web.Request, query: EventsQuery) -> web.StreamResponse:
    """What happens to a job as server-sent events, from the beginning or after the `Last-Event-ID`, to its end."""
    after = _last_event_id(request, query)
    job = await owned(request)
    gateway = request.app[GATEWAY]
    if job.projection.status.final and after >= await _end(gateway, job):
        return web.Response(status=204)  # by which clients know that they need not come back
    response = web.StreamResponse(headers=STREAM_HEADERS)
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    pictures = Permission.READ_FILES in request[PRINCIPAL].permissions
    # The client left; or its time is up, or the database away, and it comes back with a valid token.
    with suppress(OSError, TimeoutError, SQLAlchemyError):
        await response.write(sse.PREAMBLE)
        async with asyncio.timeout(STREAM_S):
            async with aclosing(gateway.feeds.follow(job.id, min(after, job.seq), job.seq, HEARTBEAT_S)) as news:
                async for frames in news:
                    told = sse.up_to_the_end(frames)
                    shown = b"".join(frame.data for frame in told if pictures or not frame.picture)
                    await response.write(shown or sse.HEARTBEAT)
                    if told[-1].last if told else await _deleted(gateway, job):
                        break
        await response.write_eof()
    return response


async def _deleted(gateway: Gateway, job: Job) -> bool:
    return await gateway.lookup.find(job.id, job.request.user_id) is None


def _last_event_id(request: web.Request, query: EventsQuery) -> int:
    given = request.headers.get(RESUME.name) or query.last_event_id or "0"
    if not re.match(LAST_EVENT_ID, given):
        raise invalid({RESUME.name: ["Must be the id of an event of this stream"]})
    return int(given)


async def _end(gateway: Gateway, job: Job) -> int:
    async with gateway.database.read() as connection:
        return await events.verdict(connection, job.id) or 0


def view(job: Job, published: Mapping[str, ArtifactRef]) -> JobView:
    """A job in full; `published` are its files, or at least its videos."""
    state = job.projection
    return {
        "id": job.id,
        "type": job.type,
        "status": state.status,
        "stage": state.activity,
        "progress": state.percent,
        "created_at": timestamp(job.request.created_at),
        "started_at": timestamp(state.started_at),
        "completed_at": timestamp(state.completed_at),
        "expires_at": timestamp(job.expires_at),
        "duration": _seconds(job),
        "parameters": _asked(job.request),
        "reused_from": job.reused_from,
        "result": _result(job, published) if published else None,
        "error": error_view(state.failure),
    }


def _unpublished(job: Job) -> bytes:
    return enveloped(view(job, {}))


def error_view(failure: Failure | None) -> JobError | None:
    """Why a job failed."""
    if failure is None:
        return None
    return {
        "stage": failure.stage,
        "code": failure.code,
        "message": failure.message,
        "remedy": failure.remedy,
    }


def _asked(request: JobRequest) -> Asked:
    return {
        "prompt": request.prompt,
        "duration": _plain(request.duration_s),
        "negative_prompt": request.negative_prompt,
        "model": request.model,
        "quality": request.quality,
        "fps": request.fps,
        "aspect_ratio": request.aspect_ratio,
        "seed": request.seed,
        "steps": request.steps,
        "guidance": request.guidance,
        "priority": request.priority,
        "metadata": request.metadata,
        "webhook_url": request.webhook_url,
        "expires_in": request.expires_in,
    }


def _plain(seconds: float) -> float | int:
    return int(seconds) if seconds.is_integer() else seconds


def _seconds(job: Job) -> float | int | None:
    """From the first worker's start to the verdict."""
    began, ended = job.projection.started_at, job.projection.completed_at
    return None if began is None or ended is None else _plain(round(max((ended - began).total_seconds(), 0.0), 3))


def _result(job: Job, published: Mapping[str, ArtifactRef]) -> Result:
    return {
        "file_id": ids.video_of(job.id),
        "file_size": top(published).size,
        "thumbnail_url": f"/videos/{job.id}/thumbnail",
    }
