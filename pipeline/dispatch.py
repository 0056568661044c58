"""Sends stage messages. Imports no actor, no stage and no torch, so the gateway may use it."""

from __future__ import annotations

import dramatiq

from pipeline.topology import queue_name
from pipeline.vocabulary import JobRequest, Stage, StageMessage, now


def first_message(request: JobRequest, epoch: int = 1) -> StageMessage:
    """The message that starts a job; `epoch` counts how often it was sent."""
    return StageMessage(
        job_id=request.job_id,
        stage=Stage.RENDER,
        epoch=epoch,
        trace_id=request.trace_id,
        sent_at=now(),
        request=request,
    )


def send(broker: dramatiq.Broker, message: StageMessage, model: str) -> None:
    """Put `message` on its queue and wait for the broker's confirmation; blocks, so not for an event loop.

    Args:
        model: of the job; each model has its own render queue.

    Raises:
        BrokerError: the broker could not be reached or refused the message.
    """
    envelope = dramatiq.Message[None](
        queue_name=queue_name(message.stage, model),
        actor_name=str(message.stage),
        args=(message.model_dump(mode="json"),),
        kwargs={},
        options={},
    )
    broker.enqueue(envelope)
