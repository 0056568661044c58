"""What a receiver is told. Pure: a job's state before and after gives the messages due."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from config.settings import Settings
from gateway.envelope import timestamp
from gateway.ids import video_of
from gateway.links import absolute
from gateway.projection import Projection
from pipeline.vocabulary import ACTIVITY, Stage, Status, new_id, now

STEP = 10
"""Percents between two messages of progress."""
STARTED_RANK, VERDICT_RANK = 0, 1000
"""Messages of one job are sent in the order of their ranks; progress has its percentage."""


class WebhookEvent(StrEnum):
    """What a webhook can be subscribed to."""

    STARTED = "job.started"
    PROGRESS = "job.progress"
    COMPLETED = "job.completed"
    FAILED = "job.failed"
    CANCELLED = "job.cancelled"


EVENTS = tuple(event.value for event in WebhookEvent)


@dataclass(frozen=True)
class Message:
    """One message about a job, before it is known who gets it.

    Attributes:
        rank: its place among the messages of the job.
        progress: whole percents.
    """

    event: WebhookEvent
    rank: int
    at: datetime
    status: Status
    stage: str
    progress: int
    failure: dict[str, Any] | None = None


def between(before: Projection, after: Projection) -> Sequence[Message]:
    """The messages due when a job that workers do went from one state to another: at most a start, and the newest of
    what followed.

    A progress that something later has already overtaken is not told.
    """
    began = _under_way(after) and not _under_way(before) and not before.status.final
    ended = after.status.final and not before.status.final
    step = after.percent // STEP * STEP
    due = []
    if began:
        at = after.started_at or after.completed_at or now()
        stage = ACTIVITY[Stage.RENDER]
        due.append(Message(WebhookEvent.STARTED, STARTED_RANK, at, Status.PROCESSING, stage, progress=0))
    if ended:
        verdict = WebhookEvent(f"job.{after.status}")
        due.append(_message(verdict, VERDICT_RANK, after.completed_at or now(), after.status, after))
    elif not after.status.final and step > before.percent // STEP * STEP:
        due.append(_message(WebhookEvent.PROGRESS, step, now(), Status.PROCESSING, after))
    return due


def _under_way(state: Projection) -> bool:
    """Whether a worker has, or had, the job; what overtook the first event says so, too, be it the end."""
    return state.started_at is not None or state.progress > 0 or state.status is Status.COMPLETED


def body(settings: Settings, message: Message, job_id: str, job_type: str) -> str:
    """The documented payload, exactly as it is signed and sent, on every attempt."""
    data: dict[str, Any] = {"job_id": job_id, "type": job_type, "status": message.status}
    match message.event:
        case WebhookEvent.STARTED | WebhookEvent.PROGRESS:
            data |= {"stage": message.stage, "progress": message.progress}
        case WebhookEvent.COMPLETED:
            data["result"] = {
                "file_id": video_of(job_id),
                "download_url": absolute(settings, f"/videos/{job_id}/download"),
                "thumbnail_url": absolute(settings, f"/videos/{job_id}/thumbnail"),
            }
        case WebhookEvent.FAILED:
            data["error"] = message.failure
    return _dump({"event": message.event, "timestamp": timestamp(message.at), "data": data})


def sample(settings: Settings, event: WebhookEvent) -> str:
    """A message of that kind about a job that does not exist, marked with `"test": true`."""
    failure = {"stage": "render", "code": "OutOfMemory", "message": "This is a test.", "remedy": ""}
    status = {
        WebhookEvent.COMPLETED: Status.COMPLETED,
        WebhookEvent.FAILED: Status.FAILED,
        WebhookEvent.CANCELLED: Status.CANCELLED,
    }.get(event, Status.PROCESSING)
    percents = STEP if event is WebhookEvent.PROGRESS else 0
    message = Message(event, 0, now(), status, "rendering", percents, failure)
    return _dump(json.loads(body(settings, message, new_id("job"), "video_generation")) | {"test": True})


def _message(event: WebhookEvent, rank: int, at: datetime, status: Status, state: Projection) -> Message:
    failure = state.failure.model_dump(mode="json", exclude={"version"}) if state.failure else None
    return Message(event, rank, at, status, state.activity, state.percent, failure)


def _dump(payload: dict[str, Any]) -> str:
    return json.dumps(payload, ensure_ascii=False, allow_nan=False)
