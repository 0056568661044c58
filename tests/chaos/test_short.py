"""The short form of `make chaos`: every kind of fault once, on the real servers, in separate processes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.run import MIN_HITS, SHORT, run

MIN_FAULTS = 20


@pytest.mark.timeout(1500)  # three minutes on two idle cores
def test_no_fault_loses_doubles_or_strands_a_job(tmp_path: Path) -> None:
    outcome = run(SHORT, random.SystemRandom().randrange(10**6), tmp_path, print)
    assert outcome.clean, outcome.report
    assert len(outcome.faults) >= MIN_FAULTS
    assert outcome.hits >= MIN_HITS
