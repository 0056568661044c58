"""Section "Job Management"."""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from gateway.context import GATEWAY, PRINCIPAL
from gateway.database import artifacts, jobs
from gateway.database.jobs import Job
from gateway.envelope import success, timestamp
from gateway.errors import not_found
from gateway.renditions import top
from pipeline.vocabulary import ArtifactRef, Failure, JobRequest, Status

routes = web.RouteTableDef()

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
    """What a completed job published, by name."""
    async with request.app[GATEWAY].database.read() as connection:
        return await artifacts.of_job(connection, job.id)


@routes.get("/jobs/{job_id}")
async def details(request: web.Request) -> web.Response:
    """Everything about a job."""
    job = await owned(request)
    state = job.projection
    published = await files(request, job) if state.status is Status.COMPLETED else {}
    return success(
        {
            "id": job.id,
            "type": job.type,
            "status": state.status,
            "stage": state.activity,
            "progress": state.percent,
            "created_at": timestamp(job.request.created_at),
            "started_at": timestamp(state.started_at),
            "completed_at": timestamp(state.completed_at),
            "duration": _seconds(job),
            "parameters": parameters(job.request),
            "result": _result(job, published) if published else None,
            "error": error_view(state.failure),
        }
    )


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


def _result(job: Job, published: dict[str, ArtifactRef]) -> dict[str, Any]:
    return {
        "file_id": job.id.replace("job_", "video_", 1),
        "file_size": top(published).size,
        "thumbnail_url": f"/videos/{job.id}/thumbnail",
    }
