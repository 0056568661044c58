"""A hundred jobs cancelled at random moments: how soon they stop, and what is left of them."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from pathlib import Path

import pytest

from config.catalogue import Catalogue
from config.settings import load
from pipeline.cancellation import CHECK_INTERVAL_S
from pipeline.dispatch import first_message, send
from pipeline.embedded import EmbeddedRuntime
from pipeline.steps import Function, Made, Work
from pipeline.vocabulary import Final, Stage, Status
from tests.chaos.checker import KEPT
from tests.small_stages import SMALL, job

JOBS = 100
STEPS, STEP_S = 10, 0.03
"""Of every stage: steps that take time and no computing, so that the figures are those of stopping."""
SLACK_S = 1.0
"""Threads of a busy machine come late."""
SEED = 6


def stepwise(stage: Stage, steps: dict[str, list[float]]) -> Function:
    """The small stage, after steps whose times are noted by job."""

    def function(work: Work) -> Made:
        for step in range(STEPS):
            work.cancellation.check()
            steps[work.request.job_id].append(time.monotonic())
            work.report(step / STEPS)
            time.sleep(STEP_S)
        return SMALL[stage](work)

    return function


def settled(runtime: EmbeddedRuntime, job_ids: list[str]) -> list[Final]:
    """The verdicts, once there are all."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        finals = [final for job_id in job_ids if (final := runtime.jobs.final(job_id))]
        if len(finals) == len(job_ids):
            return finals
        time.sleep(0.1)
    raise AssertionError("jobs without a verdict")


@pytest.mark.long
def test_cancelled_jobs_stop_within_the_bound_and_leave_nothing(tmp_path: Path) -> None:
    steps: dict[str, list[float]] = defaultdict(list)
    dice = random.Random(SEED)
    settings = load(data_dir=tmp_path / "data", worker={"checkpoint_s": 0, "checkpoint_steps": 1})
    runtime = EmbeddedRuntime(
        settings, Catalogue.load(), functions={stage: stepwise(stage, steps) for stage in Stage}, backoff_s=(0.01,)
    )
    runtime.start()
    try:
        requests = [job(seed=seed) for seed in range(JOBS)]
        for request in requests:
            runtime.submit(request)
        cancelled: dict[str, float] = {}
        began = time.monotonic()
        for at_s, request in sorted((dice.uniform(0, JOBS * STEPS * STEP_S), r.job_id) for r in requests):
            time.sleep(max(0.0, began + at_s - time.monotonic()))
            heard = dice.random() < 0.5  # else the broadcast is lost, and the store alone tells
            final = runtime.cancel(request, "ada") if heard else runtime.jobs.cancel(request, "ada")
            if final.status is Status.CANCELLED:
                cancelled[request] = time.monotonic()
        finals = settled(runtime, [request.job_id for request in requests])
        for request in requests:  # what comes again, or late, starts nothing
            message = first_message(request).model_copy(update={"sent_at": request.created_at})
            send(runtime.broker, message, request.model)
        time.sleep(CHECK_INTERVAL_S)
    finally:
        runtime.stop()
    late = sorted(max([0.0, *(step - at for step in steps[job_id])]) for job_id, at in cancelled.items())
    assert len(late) > JOBS / 2, "too few were cancelled before their end"
    assert any(steps[job_id] for job_id in cancelled), "none was cancelled while it ran"
    assert late[int(len(late) * 0.99)] <= CHECK_INTERVAL_S + STEP_S + SLACK_S
    assert {final.status for final in finals} <= {Status.CANCELLED, Status.COMPLETED}
    left = [info.key for info in runtime.store.list("jobs/")]
    assert [key for key in left if not KEPT.fullmatch(key.split("/", 2)[2])] == []
