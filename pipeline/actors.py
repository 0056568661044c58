"""Dramatiq actors, one per stage, around a `Runner`. Nothing here knows what a stage does."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import dramatiq
import structlog
from dramatiq.broker import Broker
from dramatiq.middleware import CurrentMessage, TimeLimitExceeded
from pydantic import ValidationError

from pipeline.errors import MessageRefused, StageTimeout
from pipeline.runner import Runner, TryAgain
from pipeline.topology import LANES, Lane
from pipeline.vocabulary import Stage, StageMessage

BACKOFF_S = (2.0, 8.0, 30.0)
"""Waits before the first, second, and each later retry: a blip is bridged, a restart of a server as well."""
JITTER = 0.5
"""Share by which a wait is made longer at most, so that what failed together does not come back together."""

log = structlog.get_logger(__name__)


def declare(broker: Broker, runner: Runner, queues: Iterable[str], backoff_s: tuple[float, ...] = BACKOFF_S) -> None:
    """Declare on `broker` the queues and the actors of their stages. One actor serves all `render.<model>` queues."""
    if not any(isinstance(middleware, CurrentMessage) for middleware in broker.middleware):
        broker.add_middleware(CurrentMessage())
    for queue in queues:
        lane = lane_of(queue)
        if str(lane.stage) not in broker.actors:
            _declare_actor(broker, runner, lane, queue, backoff_s)
        broker.declare_queue(queue)


def lane_of(queue: str) -> Lane:
    """The lane a queue belongs to. Raises `KeyError`."""
    stage = "render" if queue.startswith(f"{LANES[Stage.RENDER].queue}.") else queue
    return {str(stage): lane for stage, lane in LANES.items()}[stage]


def _declare_actor(broker: Broker, runner: Runner, lane: Lane, queue: str, backoff_s: tuple[float, ...]) -> None:
    def handle(body: dict[str, Any]) -> None:
        _handle(runner, lane, body, backoff_s)

    declare_as = dramatiq.actor(
        actor_name=str(lane.stage),
        queue_name=queue,
        broker=broker,
        time_limit=lane.time_limit_s * 1000,
        max_retries=None,  # the runner counts: it must note the failure of a job before its message goes
        throws=MessageRefused,
    )
    declare_as(handle)


def _handle(runner: Runner, lane: Lane, body: dict[str, Any], backoff_s: tuple[float, ...]) -> None:
    envelope = CurrentMessage.get_current_message()
    retries = envelope.options.get("retries", 0) if envelope else 0
    redelivered = bool(getattr(envelope, "redelivered", False))
    message = _parse(runner, body)
    if message is None:
        return
    try:
        left = max(0, lane.max_retries - retries)
        runner.run(message, retries_left=left, redelivered=redelivered, retried=retries > 0)
    except TimeLimitExceeded:
        runner.fail(message, _too_long(lane))
    except TryAgain as again:
        delay_s = backoff_s[min(retries, len(backoff_s) - 1)] * random.uniform(1, 1 + JITTER)  # noqa: S311
        raise dramatiq.Retry(str(again.error), delay=round(delay_s * 1000)) from again


def _parse(runner: Runner, body: dict[str, Any]) -> StageMessage | None:
    """The message; None if it is of another version and its job was failed for that.

    Raises:
        MessageRefused: it does not even name a job; Dramatiq dead-letters it.
    """
    try:
        return StageMessage.model_validate(body)
    except ValidationError as error:
        log.error("message refused", error=str(error))
    try:
        sender = StageMessage.model_validate({**body, "version": 1})
    except (ValidationError, TypeError) as error:
        raise MessageRefused("A stage message names no job.") from error
    version = body.get("version")
    runner.fail(
        sender,
        MessageRefused(f"A worker got a message of version {version}.", remedy="Run one release on all machines."),
    )
    return None


def _too_long(lane: Lane) -> StageTimeout:
    return StageTimeout(
        f"The {lane.stage} took longer than {lane.time_limit_s} s.",
        remedy="Ask for a shorter clip or fewer steps, or run it on a faster machine.",
    )
