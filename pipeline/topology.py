"""The one table of queues, exchanges and limits. Everything that declares or binds reads it from here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from pipeline.vocabulary import Stage

EVENTS_EXCHANGE = "t2m.events"
"""Topic exchange; routing keys `job.<id>.<kind>` and `worker.<id>.heartbeat`."""

CONTROL_EXCHANGE = "t2m.control"
"""Fanout exchange: the id of a cancelled job, so that workers stop fast. The store decides, this only hurries."""

PROJECTOR_QUEUE = "t2m.projector"
"""Durable queue of all events, shared by all gateways that have the projector role."""


PROJECTOR_DEAD_LETTERS = f"{PROJECTOR_QUEUE}.XQ"
"""What no projector could read; kept for a week."""

JOB_EVENTS, HEARTBEATS = "job.#", "worker.#"
"""Binding keys of the events exchange."""

HEARTBEAT_TTL_S = 15
"""A heartbeat that nobody took for so long is dropped: it says nothing any more."""


class QueueClass(StrEnum):
    """Queues that share a child process of the worker: one busy class never holds back another."""

    RENDER = "render"
    ENCODE = "encode"
    LIGHT = "light"


@dataclass(frozen=True)
class Lane:
    """How one stage runs.

    Attributes:
        queue: name, or a prefix followed by the model's name for renders.
        threads: of the child process.
        time_limit_s: longest run of one message; well under RabbitMQ's consumer timeout (30 min by default).
        max_retries: after a transient fault.
    """

    stage: Stage
    queue: str
    queue_class: QueueClass
    threads: int
    time_limit_s: int
    max_retries: int


LANES = {
    lane.stage: lane
    for lane in (
        Lane(Stage.RENDER, "render", QueueClass.RENDER, threads=1, time_limit_s=1500, max_retries=3),
        Lane(Stage.ENCODE, "encode", QueueClass.ENCODE, threads=1, time_limit_s=600, max_retries=3),
        Lane(Stage.THUMBNAILS, "thumbnails", QueueClass.LIGHT, threads=2, time_limit_s=300, max_retries=3),
        Lane(Stage.METADATA, "metadata", QueueClass.LIGHT, threads=2, time_limit_s=300, max_retries=3),
        Lane(Stage.PUBLISH, "publish", QueueClass.LIGHT, threads=2, time_limit_s=300, max_retries=5),
    )
}


def queue_name(stage: Stage, model: str) -> str:
    """The queue a message of `stage` for a job of `model` goes to: `render.<model>`, else the stage's own."""
    lane = LANES[stage]
    return f"{lane.queue}.{model}" if stage is Stage.RENDER else lane.queue


def all_queues(models: Iterable[str]) -> tuple[str, ...]:
    """Every queue there is for these models."""
    others = (stage for stage in Stage if stage is not Stage.RENDER)
    return (*(queue_name(Stage.RENDER, model) for model in models), *(queue_name(stage, "") for stage in others))
