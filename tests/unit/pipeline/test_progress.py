from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipeline.progress import MIN_INTERVAL_S, Events, Progress
from pipeline.vocabulary import EventKind, Stage, percent
from tests.small_stages import job
from tests.unit.pipeline.recording import Recorder, message

REPORTS = st.lists(st.tuples(st.floats(0, 30), st.floats(-1, 2), st.sampled_from(["", "Loading."])), max_size=60)
"""(seconds since the last report, fraction, message)"""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def progress(stage: Stage = Stage.RENDER) -> tuple[Progress, Recorder, Clock]:
    recorder, clock = Recorder(), Clock()
    return Progress(Events(recorder, message(job(), stage)), clock), recorder, clock


@given(REPORTS)
def test_progress_never_falls_and_never_floods(reports):
    report, recorder, clock = progress()
    times = []
    for wait, fraction, text in reports:
        clock.now += wait
        before = len(recorder.events)
        report(fraction, text)
        times += [clock.now] * (len(recorder.events) - before)
    percents = [percent(e.stage, e.fraction) for e in recorder.events]
    assert percents == sorted(percents) and all(0 <= p <= 70 for p in percents)
    assert all(later - earlier >= MIN_INTERVAL_S for earlier, later in pairwise(times))
    assert [e.n for e in recorder.events] == list(range(len(recorder.events)))
    assert all(e.data.get("eta_s", 0) >= 0 for e in recorder.events)
    assert len({e.id for e in recorder.events}) == len(recorder.events)


@given(st.floats(0.3, 100), st.integers(2, 50))
def test_the_eta_is_the_remaining_time_at_a_steady_rate(step_s, steps):
    report, recorder, clock = progress()
    clock.now = 1000.0  # loading the model, before the first report
    report(0.0)
    for step in range(1, steps + 1):
        clock.now += step_s
        report(step / steps, step=step)
    for step, event in enumerate(recorder.events):
        if step:
            assert abs(event.data["eta_s"] - (steps - step) * step_s) < 0.06
            assert event.data["step"] == step


def test_a_message_held_back_by_the_throttle_goes_out_with_the_next_event():
    report, recorder, clock = progress()
    report(0.1, "First.")
    report(0.2, "Second.")
    clock.now += 1
    report(0.3)
    assert [(e.kind, e.message) for e in recorder.events] == [
        (EventKind.PROGRESS, "First."),
        (EventKind.PROGRESS, "Second."),
    ]
