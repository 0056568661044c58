from __future__ import annotations

from pathlib import Path

import pytest

from models.contract import Interrupted
from pipeline.cancellation import Stops, Token
from pipeline.errors import StoreError
from pipeline.jobs import Jobs
from pipeline.store.local import FileStore


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class CountingJobs(Jobs):
    """Counts how often the store is asked for the verdict."""

    asked = 0
    away = False

    def final(self, job_id):
        self.asked += 1
        if self.away:
            raise StoreError("Away.")
        return super().final(job_id)


@pytest.fixture
def jobs(tmp_path: Path) -> CountingJobs:
    return CountingJobs(FileStore(tmp_path))


def test_the_store_is_asked_once_a_second_however_often_work_asks(jobs: CountingJobs):
    clock = Clock()
    token = Token(jobs, "job_1", Stops(clock))
    for _ in range(1024):
        clock.now += 1 / 64
        token.check()
    assert jobs.asked == 16


def test_a_verdict_stops_the_work_for_good(jobs: CountingJobs):
    clock = Clock()
    token = Token(jobs, "job_1", Stops(clock))
    jobs.cancel("job_1", "user_1")
    token.check()  # not yet: the store was looked at less than a second ago
    clock.now += 1.1
    for _ in range(2):
        with pytest.raises(Interrupted, match="cancelled"):
            token.check()


def test_a_broadcast_makes_the_next_check_look_at_the_store_which_decides(jobs: CountingJobs):
    stops = Stops(Clock())
    with Token(jobs, "job_1", stops) as token:
        stops.hurry("job_1")
        token.check()  # the broadcast alone stops nothing
        jobs.cancel("job_1", "user_1")
        stops.hurry("job_2")
        token.check()
        stops.hurry("job_1")
        with pytest.raises(Interrupted, match="cancelled"):
            token.check()
    assert stops.job_ids == ()


def test_a_drain_interrupts_all_work(jobs: CountingJobs):
    stops = Stops()
    token = Token(jobs, "job_1", stops)
    stops.drain()
    with pytest.raises(Interrupted, match="drain"):
        token.check()


def test_a_drain_lets_other_work_finish_for_a_while(jobs: CountingJobs):
    clock = Clock()
    stops = Stops(clock)
    token = Token(jobs, "job_1", stops)
    stops.drain(finish_s=10, leave_s=20)
    stops.drain()  # a second signal changes nothing
    clock.now += 9.9
    token.check()
    clock.now += 0.2
    with pytest.raises(Interrupted, match="drain"):
        token.check()


class Stepping:
    """A render in its steps; `fitting` says whether one more will be done in time."""

    denoising, fitting = True, True

    def fits(self, deadline: float) -> bool:
        assert deadline == 20
        return self.fitting


def test_a_drain_waits_for_the_checkpoint_of_a_render_if_it_comes_in_time(jobs: CountingJobs):
    clock, render = Clock(), Stepping()
    stops = Stops(clock)
    token = Token(jobs, "job_1", stops, render=render)
    stops.drain(finish_s=10, leave_s=20)
    clock.now += 15
    token.check()
    render.fitting = False
    with pytest.raises(Interrupted, match="drain"):
        token.check()


def test_a_store_that_is_away_for_a_moment_stops_nothing(jobs: CountingJobs):
    clock = Clock()
    token = Token(jobs, "job_1", Stops(clock))
    jobs.away = True
    clock.now += 2
    token.check()
    assert jobs.asked == 1


def test_each_check_is_a_sign_of_life(jobs: CountingJobs):
    signs: list[int] = []
    Token(jobs, "job_1", Stops(), alive=lambda: signs.append(1)).check()
    assert signs == [1]
