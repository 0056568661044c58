"""Entries of a job's log in the words of the API."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

from gateway.database.events import Entry
from gateway.envelope import Time, timestamp
from pipeline.vocabulary import ACTIVITY, Event, EventKind, Status

VERDICTS = {
    EventKind.COMPLETED: Status.COMPLETED,
    EventKind.FAILED: Status.FAILED,
    EventKind.CANCELLED: Status.CANCELLED,
}
ENDINGS = {
    EventKind.COMPLETED: "Job completed",
    EventKind.FAILED: "Job failed",
    EventKind.CANCELLED: "Job was cancelled",
}


class Figures(TypedDict, total=False):
    """What a worker measured, if it did."""

    figures: dict[str, Any]


class LogDetails(Figures):
    """Where the job stood; `progress` in percent."""

    step: str
    progress: int


class LogLine(TypedDict):
    """A line of a job's log."""

    timestamp: Time
    level: str
    message: str
    details: LogDetails


class Preview(TypedDict):
    """A small picture of the clip that is being made: a JPEG as a `data:` URI, and its place in the clip in seconds."""

    image: str
    at: float


class Shown(TypedDict, total=False):
    """What events of the kind `preview` have."""

    preview: Preview


class EventView(Figures, Shown):
    """The data of a server-sent event: the job's state with it, and what the log says."""

    job_id: str
    status: Status
    stage: str
    progress: int
    timestamp: Time
    level: str
    message: str


def log_line(entry: Entry) -> LogLine:
    """As `GET /jobs/{id}/logs` shows it."""
    event = entry.event
    details: LogDetails = {"step": ACTIVITY[event.stage], "progress": _percent(entry), **_figures(event)}
    return {"timestamp": timestamp(event.at), "level": event.level, "message": message(event), "details": details}


def event_view(entry: Entry) -> EventView:
    """As streams show it."""
    event = entry.event
    status = VERDICTS.get(event.kind, Status.PROCESSING)
    return {
        "job_id": event.job_id,
        "status": status,
        "stage": status.value if status.final else ACTIVITY[event.stage],
        "progress": _percent(entry),
        "timestamp": timestamp(event.at),
        "level": event.level,
        "message": message(event),
        **(_shown(event) if event.kind is EventKind.PREVIEW else _figures(event)),
    }


def message(event: Event) -> str:
    """What the worker said, or else what the event means."""
    if event.message or event.kind is EventKind.LOG:
        return event.message
    if event.kind in ENDINGS:
        return ENDINGS[event.kind]
    activity = ACTIVITY[event.stage].capitalize()
    if event.kind is not EventKind.PROGRESS:
        return f"{activity} {event.kind}"
    if {"step", "steps"} <= event.data.keys():
        return f"{activity} step {event.data['step']}/{event.data['steps']}"
    return f"{activity} {int(100 * (event.fraction or 0))}%"


def _percent(entry: Entry) -> int:
    return 100 if entry.event.kind is EventKind.COMPLETED else min(int(entry.progress), 99)


def _figures(event: Event) -> Figures:
    """What was measured, under a name of its own, as workers call figures `step` and `steps`, too."""
    return {"figures": event.data} if event.data else {}


def _shown(event: Event) -> Shown:
    data = event.data
    if not data:  # the picture has gone
        return {}
    return {"preview": {"image": f"data:image/jpeg;base64,{data['jpeg']}", "at": data["at_s"]}}
