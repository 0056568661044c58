"""Takes jobs in: new ones, and those that an earlier job already answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection
from typing_extensions import TypedDict

from gateway import idempotency
from gateway.context import Gateway
from gateway.database import artifacts, jobs, webhooks
from gateway.database.jobs import Job, NewJob
from gateway.envelope import Time, timestamp
from gateway.errors import ApiError, invalid
from gateway.idempotency import Answer, Attempt, KeyTaken
from gateway.links import link
from gateway.projection import Projection
from gateway.registration import Entry
from gateway.retention import shortest_s
from pipeline.requests import resolve, signature
from pipeline.safety import refusal
from pipeline.vocabulary import ArtifactRef, Final, JobRequest, Status, now

MAX_RECEIVERS = 10
"""Of one job, as each request that joins it may name another."""


class Accepted(TypedDict):
    """A job that was accepted, or that answers because it is identical."""

    job_id: str
    status: Status
    stage: str
    progress: int
    created_at: Time
    reused: bool


async def accept(gateway: Gateway, user_id: str, body: Mapping[str, Any], attempt: Attempt | None) -> Answer:
    """Accept the job that `body` asks for, once per `attempt`.

    Raises:
        InvalidRequest: it asks for what cannot be made.
        ApiError: 400, the attempt's key was used for something else; 429, the user has made too many jobs.
    """
    if (answer := await idempotency.earlier(gateway.database, attempt)) is not None:
        return answer
    job = resolve(body, user_id=user_id, catalogue=gateway.catalogue, default_model=gateway.settings.models.default)
    await _require_allowed(gateway, job)
    try:
        if body.get("reuse") and (reused := await _reuse(gateway, job, body.get("seed") is not None, attempt)):
            return reused
        return await _accept(gateway, job, attempt)
    except (KeyTaken, ApiError):  # of the same requests at the same time one may have been let through
        answer = await idempotency.earlier(gateway.database, attempt)
        if answer is None:
            raise
        return answer


async def _accept(gateway: Gateway, job: JobRequest, attempt: Attempt | None) -> Answer:
    answer = _answer(gateway, job.job_id, job, Projection(), "Video generation job created")
    await asyncio.to_thread(gateway.store.accept, job)
    await _register(gateway, job, answer, attempt)
    gateway.wake.set()
    gateway.metrics.accepted.labels(job.model).inc()
    return answer


async def _register(gateway: Gateway, job: JobRequest, answer: Answer, attempt: Attempt | None) -> None:
    """Promise a job that is in the store."""
    retention_s = shortest_s(job.expires_in, gateway.settings.gateway.retention_days)
    await gateway.registrar.register(Entry(NewJob(job, _signature(gateway, job), retention_s), answer, attempt))


async def _reuse(gateway: Gateway, job: JobRequest, seeded: bool, attempt: Attempt | None) -> Answer | None:
    """Let an identical job of the same user answer, if there is one: join it while it runs, else share its files."""
    async with gateway.database.write() as connection:
        seed = job.seed if seeded else None
        found = await jobs.identical(connection, job.user_id, _signature(gateway, job), seed)
        if found is None:
            return None
        if not found.projection.status.final:
            text = "Joined the identical job that is running"
            answer = _answer(gateway, found.id, found.request, found.projection, text, reused=True)
            await idempotency.keep(connection, attempt, answer)
            await jobs.join(connection, found.id)
            await _subscribe(connection, job, found.id)
            gateway.metrics.reused.labels("joined").inc()
            return answer
        files = await artifacts.of_job(connection, found.id)
    job = job.model_copy(update={"seed": found.request.seed, "reused_from": found.id})
    return await _share(gateway, job, found, files, attempt)


async def _share(
    gateway: Gateway, job: JobRequest, source: Job, files: Mapping[str, ArtifactRef], attempt: Attempt | None
) -> Answer:
    """A job of its own that is completed at once with the files of `source`; each can be deleted without the other.

    It is added as claimed, so that no dispatcher takes it before its verdict is entered.
    """
    metadata = {**(source.media or {}), "job_id": job.job_id}
    final = Final(
        job_id=job.job_id, status=Status.COMPLETED, at=now(), artifacts=tuple(files.values()), metadata=metadata
    )
    done = Projection(status=Status.COMPLETED)
    answer = _answer(gateway, job.job_id, job, done, "Served from an identical job", reused=True)
    await asyncio.to_thread(gateway.store.accept, job)
    await asyncio.to_thread(gateway.store.decide, final)
    await _register(gateway, job, answer, attempt)
    await gateway.ledger.enter([], {job.job_id: final})
    gateway.metrics.accepted.labels(job.model).inc()
    gateway.metrics.reused.labels("shared").inc()
    return answer


async def _require_allowed(gateway: Gateway, job: JobRequest) -> None:
    """Raises `ApiError` 400 where the job must not be made, or its receiver must not be called."""
    reason = await asyncio.to_thread(refusal, gateway.safety, job) if gateway.safety else None
    if reason is not None:
        raise invalid({"prompt": [reason]})
    problems = await gateway.guard.problems(job.webhook_url) if job.webhook_url else []
    if problems:
        raise invalid({"webhook_url": problems})


async def _subscribe(connection: AsyncConnection, asked: JobRequest, job_id: str) -> None:
    """Tell the receiver that was named with `asked` of the locked job that answers it, too.

    Raises:
        ApiError: 400, the job has its `MAX_RECEIVERS`.
    """
    if asked.webhook_url is None:
        return
    present = await webhooks.receivers(connection, job_id)
    if asked.webhook_url in present:
        return
    if len(present) >= MAX_RECEIVERS:
        raise invalid({"webhook_url": [f"The identical job that is running has {MAX_RECEIVERS} receivers already"]})
    await webhooks.add_for_job(connection, asked.user_id, job_id, asked.webhook_url)


def _answer(
    gateway: Gateway, job_id: str, job: JobRequest, state: Projection, text: str, *, reused: bool = False
) -> Answer:
    data: Accepted = {
        "job_id": job_id,
        "status": state.status,
        "stage": state.activity,
        "progress": state.percent,
        "created_at": timestamp(job.created_at),
        "reused": reused,
    }
    return Answer(202, data, text, {"Location": link(gateway.settings, f"/videos/{job_id}/status")})


def _signature(gateway: Gateway, job: JobRequest) -> str:
    return signature(job, gateway.catalogue.get(job.model).revision)
