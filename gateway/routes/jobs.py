"""Section "Job Management"."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextlib import aclosing, suppress
from typing import Any

from aiohttp import web

from gateway import lifecycle, pagination, sse
from gateway.access import requires
from gateway.auth.base import Permission
from gateway.context import GATEWAY, PRINCIPAL, Gateway
from gateway.database import artifacts, events, jobs
from gateway.database.jobs import Job, Wanted
from gateway.envelope import success, timestamp
from gateway.errors import invalid, not_found, wrong_state
from gateway.logbook import log_line
from gateway.pagination import paginated
from gateway.query import Query
from gateway.renditions import top
from pipeline.vocabulary import ArtifactRef, Failure, JobRequest, Status

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
LAST_EVENT_ID = re.compile(r"[0-9]{1,9}")
JOB_ID = re.compile(r"job_[0-9a-f]{32}")


async def owned(request: web.Request) -> Job:
    """The job of the path. Raises `ApiError` 404 if there is none or it is another user's."""
    job_id = request.match_info["job_id"]
    if JOB_ID.fullmatch(job_id) is None:  # what the database may not even be able to compare
        raise not_found("Job", job_id)
    async with request.app[GATEWAY].database.read() as connection:
        job = await jobs.find(connection, job_id, request[PRINCIPAL].user_id)
    if job is None:
        raise not_found("Job", job_id)
    return job


async def files(request: web.Request, job: Job) -> dict[str, ArtifactRef]:
    """What a completed job published, by name; that never changes, so it may come from the cache."""
    gateway, user_id = request.app[GATEWAY], job.request.user_id
    published = await gateway.cache.files(user_id, job.id)
    if published is None:
        async with gateway.database.read() as connection:
            published = await artifacts.of_job(connection, job.id)
        await gateway.cache.keep_files(user_id, job.id, published)
    return published


@routes.get("/jobs")
async def listing(request: web.Request) -> web.Response:
    """A page of the user's jobs, each as `GET /jobs/{job_id}` shows it."""
    with Query(request) as query:
        page = pagination.read(query)
        wanted = Wanted(
            status=query.choice("status", tuple(Status)),
            type=query.choice("type", (jobs.VIDEO_GENERATION,)),
            created_after=query.time("created_after"),
            created_before=query.time("created_before"),
            sort=query.choice("sort", SORT_KEYS) or Wanted.sort,
        )
    user_id = request[PRINCIPAL].user_id
    async with request.app[GATEWAY].database.read() as connection:
        found, total = await jobs.search(connection, user_id, wanted, limit=page.size, offset=page.offset)
        completed = [job.id for job in found if job.projection.status is Status.COMPLETED]
        published = await artifacts.videos(connection, completed)
    return success(paginated([view(job, published.get(job.id, {})) for job in found], page, total))


@routes.get("/jobs/{job_id}")
async def details(request: web.Request) -> web.Response:
    """Everything about a job."""
    job = await owned(request)
    return success(view(job, await files(request, job) if job.projection.status is Status.COMPLETED else {}))


@routes.delete("/jobs/{job_id}")
@requires(Permission.GENERATE_VIDEOS)
async def delete(request: web.Request) -> web.Response:
    """Remove a job and its data; refused while it is running."""
    job = await owned(request)
    if not job.projection.status.final:
        raise wrong_state("A running job cannot be deleted; cancel it first", job.projection.status)
    await lifecycle.delete(request.app[GATEWAY], job.id)
    return success({"id": job.id, "deleted": True}, "Job deleted successfully")


@routes.post("/jobs/{job_id}/cancel")
@requires(Permission.GENERATE_VIDEOS)
async def cancel(request: web.Request) -> web.Response:
    """Stop a job: one that waits never runs, one that runs stops within a denoising step."""
    job = await owned(request)
    state = job.projection
    if not state.status.final:
        final = await lifecycle.cancel(request.app[GATEWAY], job.id, job.request.user_id)
        state = (await owned(request)).projection
        if final.status is Status.CANCELLED:
            data = {"id": job.id, "status": state.status, "stage": state.activity, "progress": state.percent}
            return success(data | {"completed_at": timestamp(state.completed_at)}, "Job cancelled successfully")
    raise wrong_state(f"Job cannot be cancelled: it is already {state.status}", state.status)


@routes.get("/jobs/{job_id}/logs")
async def logs(request: web.Request) -> web.Response:
    """What workers said about a job, oldest first."""
    with Query(request) as query:
        level = query.choice("level", LEVELS)
        limit = query.integer("limit", 100, minimum=1, maximum=1000)
        offset = query.integer("offset", 0, minimum=0)
    job = await owned(request)
    async with request.app[GATEWAY].database.read() as connection:
        entries, total = await events.page(connection, job.id, level=level, limit=limit, offset=offset)
    lines = [log_line(entry) for entry in entries]
    return success({"logs": lines, "total_logs": total, "has_more": offset + len(lines) < total})


@routes.get("/jobs/{job_id}/events")
async def stream(request: web.Request) -> web.StreamResponse:
    """What happens to a job as server-sent events, from the beginning or after the `Last-Event-ID`, to its end."""
    after = _last_event_id(request)
    job = await owned(request)
    gateway = request.app[GATEWAY]
    if job.projection.status.final and after >= await _end(gateway, job):
        return web.Response(status=204)  # by which clients know that they need not come back
    response = web.StreamResponse(headers=STREAM_HEADERS)
    await response.prepare(request)
    with suppress(OSError, TimeoutError):  # the client left; or its time is up, and it comes back with a valid token
        await response.write(sse.PREAMBLE)
        async with asyncio.timeout(STREAM_S):
            async with aclosing(gateway.feeds.follow(job.id, min(after, job.seq), job.seq, HEARTBEAT_S)) as news:
                async for frames in news:
                    await response.write(b"".join(frame.data for frame in frames) or sse.HEARTBEAT)
                    if any(frame.last for frame in frames):
                        break
        await response.write_eof()
    return response


def _last_event_id(request: web.Request) -> int:
    given = request.headers.get("Last-Event-ID") or request.query.get("last_event_id") or "0"
    if not LAST_EVENT_ID.fullmatch(given):
        raise invalid({"Last-Event-ID": ["Must be the id of an event of this stream"]})
    return int(given)


async def _end(gateway: Gateway, job: Job) -> int:
    async with gateway.database.read() as connection:
        return await events.verdict(connection, job.id) or 0


def view(job: Job, published: Mapping[str, ArtifactRef]) -> dict[str, Any]:
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
        "parameters": parameters(job.request),
        "reused_from": job.reused_from,
        "result": _result(job, published) if published else None,
        "error": error_view(state.failure),
    }


def parameters(request: JobRequest) -> dict[str, Any]:
    """What was asked, by the names of the request body, defaults included."""
    fields = request.model_dump(exclude={"version", "job_id", "user_id", "created_at", "trace_id", "duration_s"})
    return {"prompt": fields.pop("prompt"), "duration": _plain(request.duration_s), **fields}


def error_view(failure: Failure | None) -> dict[str, Any] | None:
    """Why a job failed."""
    return None if failure is None else failure.model_dump(mode="json", exclude={"version"})


def _plain(seconds: float) -> float | int:
    return int(seconds) if seconds.is_integer() else seconds


def _seconds(job: Job) -> float | int | None:
    """From the first worker's start to the verdict."""
    began, ended = job.projection.started_at, job.projection.completed_at
    return None if began is None or ended is None else _plain(round(max((ended - began).total_seconds(), 0.0), 3))


def _result(job: Job, published: Mapping[str, ArtifactRef]) -> dict[str, Any]:
    return {
        "file_id": job.id.replace("job_", "video_", 1),
        "file_size": top(published).size,
        "thumbnail_url": f"/videos/{job.id}/thumbnail",
    }
