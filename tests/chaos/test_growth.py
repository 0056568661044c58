"""Half an hour of small jobs: nothing grows."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from gateway import cache
from gateway.database import engine
from pipeline.store import s3
from tests.chaos.deployment import Deployment, Pace
from tests.chaos.footprint import Footprint, footprint
from tests.chaos.load import Load, Wish
from tests.chaos.receiver import receiver
from tests.chaos.record import Record
from tests.chaos.run import Client, judge, settle
from tests.services import Services

WARM_S, WHOLE_S = 600.0, 1800.0
"""When what is held is looked at for the first and for the last time."""
EVERY_S = 6.0
"""Between two jobs, on average."""
IDLE_S = 90.0
"""After this time RabbitMQ has dropped connections that nobody uses."""
LIMIT_S = 900.0
"""For jobs to end after the last was asked for."""
MAX_GROWTH = 0.05
POOLS = {
    "postgres": engine.CONNECTIONS,
    "redis": cache.CONNECTIONS + 1,  # of the cache, and to count
    "s3": s3.CONNECTIONS,
}
"""Connections that a process keeps open at most, by server."""


@pytest.mark.long
@pytest.mark.timeout(WHOLE_S + 3 * LIMIT_S)
def test_half_an_hour_of_jobs_leaves_nothing_behind(services: Services, tmp_path: Path) -> None:
    record = Record(tmp_path / "client.jsonl")
    with (
        Deployment(services, tmp_path, Pace(lease_s=600)) as deployment,
        receiver(record, random.Random(0)) as hook,
    ):
        warm = work(deployment, record, hook, WARM_S)
        end = work(deployment, record, hook, WHOLE_S - WARM_S)
        record.close()
        verdict = judge(deployment, record)
    grown = end.grown(warm)
    print({name: f"{share:+.1%}" for name, share in grown.items()}, sum(end.held.values()), end.pooled, verdict.report)
    assert verdict.clean, verdict.report
    assert {what: (warm.held[what], count) for what, count in end.held.items() if count != warm.held[what]} == {}
    assert end.pooled <= Counter(POOLS), end.pooled
    assert {name: share for name, share in grown.items() if share > MAX_GROWTH} == {}


def work(deployment: Deployment, record: Record, hook: str, seconds: float) -> Footprint:
    """Let a client ask for jobs for so long; what is held when all have ended."""
    wish = Wish(jobs=round(seconds / EVERY_S), longer=0, seconds=seconds)
    load = Load(deployment.url, deployment.token, wish, random.Random(seconds), record)
    client = Client(load.run(hook))
    client.start()
    client.finish(seconds + LIMIT_S)
    settle(deployment, LIMIT_S)
    time.sleep(IDLE_S)
    return footprint(deployment)
