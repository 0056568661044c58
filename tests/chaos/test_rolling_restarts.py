"""Workers that are stopped and started one after the other, again and again, while renders run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pipeline.vocabulary import Status
from tests.integration.test_worker import RENDER, REST, Chain

RESTARTS = 20
FLEET = (RENDER, RENDER, RENDER, REST)
"""Queues of each worker."""
RENDERS = 20
STEP_S, STEPS = 0.2, 110
MAX_REPEATED = 0.01
"""Share of all denoising steps."""
LIMIT_S = 600.0
"""For the renders that are left after the last restart."""


@pytest.fixture
def chain(t2m_settings, rabbitmq_vhost: str, tmp_path: Path) -> Iterator[Chain]:
    """With production's rules for checkpoints, leases and the grace period."""
    settings = t2m_settings(
        "rabbitmq", "s3", broker={"url": rabbitmq_vhost, "queue_type": "quorum"}, log={"format": "json"}
    )
    settings.data_dir.mkdir()
    with ExitStack() as stack:
        yield Chain(settings, tmp_path, stack)


@pytest.mark.long
@pytest.mark.timeout(3600)  # ten minutes on two idle cores
def test_rolling_restarts_fail_no_render_and_repeat_next_to_no_step(chain: Chain) -> None:
    workers = [chain.worker(*queues) for queues in FLEET]
    jobs: list[str] = []
    codes, handed_back = [], 0
    for _ in range(RESTARTS):
        for place, queues in enumerate(FLEET):
            keep_busy(chain, jobs)
            codes.append(workers[place].stop())
            handed_back += sum(line.get("outcome") == "handed back" for line in workers[place].lines)
            workers[place] = chain.worker(*queues)
    finals = [verdict(chain, job_id) for job_id in jobs]
    done = [chain.steps(job_id) for job_id in jobs]
    run, repeated = sum(map(len, done)), sum(len(steps) - len(set(steps)) for steps in done)
    print(f"{len(jobs)} renders, {handed_back} times handed back, {repeated} of {run} steps were run twice")
    assert len(jobs) >= RENDERS
    assert codes == [0] * RESTARTS * len(FLEET)
    assert finals == [Status.COMPLETED] * len(jobs)
    assert all(set(steps) == set(range(1, STEPS + 1)) for steps in done)
    assert handed_back >= RESTARTS, "too few renders were hit"
    assert repeated <= MAX_REPEATED * run


def keep_busy(chain: Chain, jobs: list[str]) -> None:
    """Ask for more renders, so that there are always more than workers for them."""
    waiting = [job_id for job_id in jobs if chain.jobs.final(job_id) is None]
    jobs += [chain.submit(f"step {STEP_S}", steps=STEPS) for _ in range(2 * len(FLEET) - len(waiting))]


def verdict(chain: Chain, job_id: str) -> Status:
    deadline = time.monotonic() + LIMIT_S
    while (final := chain.jobs.final(job_id)) is None:
        assert time.monotonic() < deadline, f"{job_id} has no verdict"
        time.sleep(0.2)
    return final.status
