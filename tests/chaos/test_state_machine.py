"""The job's state machine: whatever order things happen in, and wherever processes die."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from tests.chaos.small_world import POINTS, SmallWorld, crash, store_away, twin_of

points = st.integers(0, POINTS)
seeds = st.integers(0, 2**16)


class Job(RuleBasedStateMachine):
    """Guarantees as invariants.

    - Visible exactly once, cancelled means stopped: at every moment nothing is lost, doubled or wrong.
    - Accepted means kept: once nothing goes wrong any more, every job reaches a final state.
    """

    jobs: Bundle[str] = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="t2m-machine-"))
        self.world = SmallWorld(self.folder)

    @rule(target=jobs, twin=st.integers(0, 1))
    def accept(self, twin: int) -> str:
        self.world.accept(twin)
        return self.world.jobs[-1]

    @rule(job_id=jobs)
    def poll(self, job_id: str) -> None:
        self.world.poll(job_id)

    @rule(job_id=consumes(jobs))
    def cancel(self, job_id: str) -> None:
        self.world.cancel(job_id)

    @rule(point=points)
    def dispatch_and_perhaps_die(self, point: int) -> None:
        self.world.dispatch(point)

    @precondition(lambda self: self.world.jobs)
    @rule(queue=st.integers(0, 4))
    def work(self, queue: int) -> None:
        self.world.work(self._queue(queue))

    @precondition(lambda self: self.world.jobs)
    @rule(queue=st.integers(0, 4), point=points)
    def die_at_work(self, queue: int, point: int) -> None:
        self.world.work(self._queue(queue), point, crash)

    @precondition(lambda self: self.world.jobs)
    @rule(queue=st.integers(0, 4), point=points)
    def lose_the_store_at_work(self, queue: int, point: int) -> None:
        self.world.work(self._queue(queue), point, store_away)

    @precondition(lambda self: self.world.jobs)
    @rule(queue=st.integers(0, 4), point=points)
    def stand_still_while_another_works(self, queue: int, point: int) -> None:
        name = self._queue(queue)
        self.world.work(name, point, lambda: twin_of(self.world, name))

    @precondition(lambda self: self.world.jobs)
    @rule(queue=st.integers(0, 4))
    def lose_an_acknowledgement(self, queue: int) -> None:
        self.world.work(self._queue(queue), lost=True)

    @precondition(lambda self: self.world.jobs)
    @rule(queue=st.integers(0, 4), point=points)
    def cancel_in_the_middle_of_work(self, queue: int, point: int) -> None:
        job_id = self.world.jobs[-1]
        self.world.work(self._queue(queue), point, lambda: self.world.cancel(job_id))

    @rule(number=st.integers(0, 100))
    def duplicate(self, number: int) -> None:
        self.world.duplicate(number)

    @rule(count=st.integers(1, 12), seed=seeds, lost=st.booleans())
    def project(self, count: int, seed: int, lost: bool) -> None:
        self.world.project(count, random.Random(seed), lost=lost)

    @rule()
    def repair(self) -> None:
        self.world.repair()

    @invariant()
    def nothing_is_lost_doubled_or_wrong(self) -> None:
        found = self.world.judge().violations
        assert not found["lost"] and not found["doubled"] and not found["wrong"], found

    def teardown(self) -> None:
        self.world.settle()
        report = self.world.judge()
        self.world.close()
        shutil.rmtree(self.folder)
        assert report.clean, report.violations

    def _queue(self, number: int) -> str:
        return self.world.queues[number]


Job.TestCase.settings = settings(
    max_examples=8, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
TestJob = Job.TestCase


def test_a_verdict_that_nobody_has_projected_yet_is_not_wrong(tmp_path: Path) -> None:
    world = SmallWorld(tmp_path)
    world.accept(0)
    world.dispatch()
    for queue in world.queues:
        assert world.work(queue)
    found = world.judge().violations
    world.close()
    assert [name for name, jobs in found.items() if jobs] == ["stuck"]
