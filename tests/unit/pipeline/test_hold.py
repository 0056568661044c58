"""Renders that leave checkpoints, go on from them, and are fenced against their own ghosts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from config.catalogue import Catalogue
from config.settings import Settings
from models.contract import Interrupted
from pipeline import keys, steps
from pipeline.errors import StoreError
from pipeline.hold import Hold, Rules
from pipeline.runner import Runner, TryAgain
from pipeline.steps import Functions, Made, Work
from pipeline.store.local import FileStore
from pipeline.vocabulary import EventKind, Head, JobRequest, Stage, StageMessage
from tests.small_stages import SMALL, Shot, job, write
from tests.unit.pipeline.recording import Bench, message

OFTEN = Rules(every_s=0, steps=3, lease_s=600)
STEPS = 10


@dataclass
class Stepper:
    """A render of `STEPS` steps that knows which were done; each takes as long as an upload.

    Attributes:
        pauses: steps before which it says `reached` and waits.
        fatal: step before which it dies.
    """

    done: list[int] = field(default_factory=list)
    resumed: list[bytes | None] = field(default_factory=list)
    pauses: dict[int, threading.Event] = field(default_factory=dict)
    reached: threading.Event = field(default_factory=threading.Event)
    fatal: int = 0

    def functions(self) -> Functions:
        return SMALL | {Stage.RENDER: self}

    def __call__(self, work: Work) -> Made:
        self.resumed.append(work.resume)
        assert work.checkpoints is not None
        for step in range(int(work.resume or 0) + 1, STEPS + 1):
            work.cancellation.check()
            if step in self.pauses:
                self.reached.set()
                assert self.pauses[step].wait(30)
            if step == self.fatal:
                raise KeyboardInterrupt  # as dead as it gets here
            self.done.append(step)
            work.checkpoints.offer(step, STEPS, lambda step=step: Shot(step))
            work.checkpoints._uploads.submit(lambda: None).result()  # type: ignore[attr-defined]
        return Made(write(work, "mezzanine.mov"), {"frames": 17})


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def settings(t2m_settings) -> Settings:
    return t2m_settings(models={"device": "cpu"})


@pytest.fixture
def request_(bench: Bench) -> JobRequest:
    return bench.accept(job())


def head_of(bench: Bench, job_id: str) -> Head:
    return Head.model_validate_json(bench.store.get(keys.head(job_id))[0])


def kept(bench: Bench, job_id: str) -> list[str]:
    return [info.key for info in bench.store.list(keys.render_folder(job_id))]


def settled(runner: Runner) -> None:
    """Wait for what the runner does behind its back."""
    runner._uploads.submit(lambda: None).result()


def die_at(bench: Bench, request: JobRequest, step: int, worker: str, rules: Rules = OFTEN) -> Stepper:
    stepper = Stepper(fatal=step)
    runner = bench.another(stepper.functions(), worker, rules)
    with pytest.raises(KeyboardInterrupt):
        runner.run(message(request))
    settled(runner)
    return stepper


def test_who_takes_a_render_up_goes_on_from_the_last_checkpoint(bench: Bench, request_: JobRequest):
    first = die_at(bench, request_, 8, "one")
    last = int(bench.store.get(head_of(bench, request_.job_id).checkpoint or "")[0])
    second = Stepper()
    bench.another(second.functions(), "two", OFTEN).run(message(request_), redelivered=True)
    assert second.resumed == [str(last).encode()]
    assert second.done == list(range(last + 1, STEPS + 1))
    assert (first.done[-1], last) == (7, 6), "no more than what lies between two checkpoints is repeated"
    assert bench.jobs.record(request_.job_id, Stage.RENDER) is not None


def test_a_checkpoint_is_kept_before_time_and_steps_have_passed(bench: Bench, request_: JobRequest):
    at = [0.0]
    uploads = ThreadPoolExecutor(1)
    hold = Hold(bench.store, message(request_), "one", Rules(30, 2, 600), bench.stops, uploads, lambda: at[0])
    hold.take()
    when = []
    for done in range(1, 13):
        at[0] += 10 if done <= 6 else 40
        hold.offer(done, 100, lambda done=done: (when.append(done), Shot(done))[1])
        uploads.submit(lambda: None).result()
    assert when == [2, 4, 6, 7, 8, 9, 10, 11, 12]


def test_a_short_render_keeps_nothing_and_leaves_nothing(bench: Bench, request_: JobRequest):
    stepper = Stepper()
    runner = bench.another(stepper.functions())
    runner.run(message(request_, age_s=0))
    settled(runner)
    assert stepper.done == list(range(1, STEPS + 1))
    assert kept(bench, request_.job_id) == []


def test_old_checkpoints_go_when_the_head_has_moved_and_all_when_the_record_is_there(
    bench: Bench, request_: JobRequest
):
    die_at(bench, request_, 9, "one")
    assert len(kept(bench, request_.job_id)) == 2, "the head and its checkpoint"
    runner = bench.another(Stepper().functions(), "two", OFTEN)
    runner.run(message(request_))
    settled(runner)
    assert kept(bench, request_.job_id) == []


def test_a_ghost_is_refused_at_its_next_checkpoint_and_fails_nothing(bench: Bench, request_: JobRequest):
    """Stopped past its lease and continued: it stops, without a word about the job."""
    ghost = Stepper(pauses={5: threading.Event()})
    runner = bench.another(ghost.functions(), "ghost", OFTEN)
    thread = threading.Thread(target=runner.run, args=(message(request_),))
    thread.start()
    assert ghost.reached.wait(30)
    other = Stepper(pauses={9: threading.Event()})
    living = bench.another(other.functions(), "living", Rules(every_s=1000))
    taking = threading.Thread(target=living.run, args=(message(request_),), kwargs={"redelivered": True})
    taking.start()
    assert other.reached.wait(30)
    ghost.pauses[5].set()
    thread.join(30)
    assert ghost.done[-1] == 7, "refused with the checkpoint of step 6, stopped within a step"
    assert head_of(bench, request_.job_id).holder.startswith("living/")
    other.pauses[9].set()
    taking.join(30)
    assert [sent.stage for sent in bench.sent] == [Stage.ENCODE]
    assert bench.jobs.final(request_.job_id) is None
    assert EventKind.FAILED not in bench.bus.kinds()


def test_a_ghost_that_is_through_changes_nothing(bench: Bench, request_: JobRequest):
    ghost = Stepper(pauses={STEPS: threading.Event()})
    runner = bench.another(ghost.functions(), "ghost", Rules(every_s=1000))
    thread = threading.Thread(target=runner.run, args=(message(request_),))
    thread.start()
    assert ghost.reached.wait(30)
    bench.another(Stepper().functions(), "living").run(message(request_), redelivered=True)
    record = bench.jobs.record(request_.job_id, Stage.RENDER)
    ghost.pauses[STEPS].set()
    thread.join(30)
    assert bench.jobs.record(request_.job_id, Stage.RENDER) == record


def test_a_lease_that_ends_hands_the_render_on_with_no_step_lost(bench: Bench, request_: JobRequest):
    steppers = []
    bench.sent.append(message(request_))
    hops = []
    while bench.sent[0].stage is Stage.RENDER:
        stepper = Stepper()
        sent = bench.sent.pop(0)
        hops.append(sent.hop)
        bench.another(stepper.functions(), "one", Rules(every_s=1000, lease_s=0)).run(sent)
        steppers.append(stepper)
    assert [stepper.done for stepper in steppers] == [[step] for step in range(1, STEPS)] + [[STEPS]]
    assert hops == list(range(STEPS))
    assert [sent.stage for sent in bench.sent] == [Stage.ENCODE]
    orders = [event.order for event in bench.bus.events]
    assert orders == sorted(orders)


def test_a_message_older_than_the_head_is_dropped(bench: Bench, request_: JobRequest):
    first = message(request_)
    bench.another(Stepper().functions(), "one", Rules(lease_s=0)).run(first)
    stale = Stepper()
    bench.another(stale.functions(), "two").run(first, redelivered=True)
    assert stale.resumed == [] and len(bench.sent) == 1
    bench.another(Stepper().functions(), "two").run(bench.sent.pop(0))
    assert [sent.stage for sent in bench.sent] == [Stage.ENCODE]


def test_a_job_sent_again_goes_on_from_the_checkpoint(bench: Bench, request_: JobRequest):
    bench.another(Stepper().functions(), "one", Rules(lease_s=0)).run(message(request_))
    second = Stepper()
    bench.another(second.functions(), "two").run(message(request_).model_copy(update={"epoch": 2}))
    assert second.resumed == [b"1"]


def test_a_drain_leaves_a_checkpoint_and_hands_back_at_the_end_of_the_step(bench: Bench, request_: JobRequest):
    stepper = Stepper(pauses={4: threading.Event()})
    runner = bench.another(stepper.functions(), "one", Rules())
    thread = threading.Thread(target=runner.run, args=(message(request_),))
    thread.start()
    assert stepper.reached.wait(30)
    bench.stops.drain(finish_s=0, leave_s=25)
    stepper.pauses[4].set()
    thread.join(30)
    assert stepper.done == [1, 2, 3, 4]
    (again,) = bench.sent
    assert again.hop == 1
    second = Stepper()
    bench.another(second.functions(), "two").run(again)
    assert second.resumed == [b"4"]


def test_a_drain_that_a_step_would_outlast_hands_back_at_once(bench: Bench, request_: JobRequest):
    """From the last checkpoint; the fifth step, of which nobody knows when it ends, is not waited for."""

    def slow(work: Work) -> Made:
        assert work.checkpoints is not None
        for step in (1, 2):
            work.checkpoints.offer(step, STEPS, lambda step=step: Shot(step))
        settled(runner)
        time.sleep(0.3)
        work.checkpoints.offer(3, STEPS, lambda: Shot(3))  # a step of 0.3 s
        bench.stops.drain(finish_s=20, leave_s=1.1)
        work.cancellation.check()
        raise AssertionError("went on")

    runner = bench.another(SMALL | {Stage.RENDER: slow}, "one", OFTEN)
    runner.run(message(request_))
    (again,) = bench.sent
    second = Stepper()
    bench.another(second.functions(), "two").run(again)
    assert second.resumed == [b"2"]


def test_a_render_that_was_spared_goes_on_as_before(bench: Bench, request_: JobRequest):
    stepper = Stepper()
    runner = bench.another({}, "one", OFTEN)

    def render(work: Work) -> Made:
        runner.spare()
        assert head_of(bench, request_.job_id).takers == ()
        return stepper.functions()[Stage.RENDER](work)

    runner._functions = {Stage.RENDER: render}
    runner.run(message(request_))
    assert stepper.done == list(range(1, STEPS + 1))
    assert bench.jobs.record(request_.job_id, Stage.RENDER) is not None


def test_progress_forgives_the_workers_that_were_lost(bench: Bench, request_: JobRequest):
    """Preempted again and again, a long render is no poison as long as it gets on."""
    for number in range(5):
        die_at(bench, request_, 4 + number, f"worker-{number}", Rules(every_s=0, steps=1))
    bench.another(Stepper().functions(), "last").run(message(request_), redelivered=True)
    assert bench.jobs.record(request_.job_id, Stage.RENDER) is not None


def test_a_store_that_is_away_costs_a_checkpoint_and_no_render(
    bench: Bench, request_: JobRequest, monkeypatch: pytest.MonkeyPatch
):
    create, away = FileStore.create, []

    def flaky(self: FileStore, key: str, data: bytes, media_type: str = "application/json") -> str:
        if key.endswith(".safetensors") and len(away) < 2:
            away.append(key)
            raise StoreError("Away.")
        return create(self, key, data, media_type)

    monkeypatch.setattr(FileStore, "create", flaky)
    stepper = Stepper()
    bench.another(stepper.functions(), "one", OFTEN).run(message(request_))
    assert len(away) == 2
    assert stepper.done == list(range(1, STEPS + 1))
    assert bench.jobs.record(request_.job_id, Stage.RENDER) is not None


def test_a_render_whose_checkpoint_is_on_its_way_for_long_waits_an_interval_ahead(
    bench: Bench, request_: JobRequest, monkeypatch: pytest.MonkeyPatch
):
    """As in a partition, where somebody else may go on from the checkpoint before."""
    create, mended, done = FileStore.create, threading.Event(), []

    def cut_off(self: FileStore, key: str, data: bytes, media_type: str = "application/json") -> str:
        assert not key.endswith(".safetensors") or mended.wait(30)
        return create(self, key, data, media_type)

    def denoise() -> None:
        for step in range(1, STEPS + 1):
            done.append(step)
            hold.offer(step, STEPS, lambda step=step: Shot(step))

    monkeypatch.setattr(FileStore, "create", cut_off)
    hold = Hold(bench.store, message(request_), "one", OFTEN, bench.stops, ThreadPoolExecutor(1))
    hold.take()
    thread = threading.Thread(target=denoise)
    thread.start()
    thread.join(1)
    assert done == [1, 2, 3]
    mended.set()
    thread.join(30)
    assert done == list(range(1, STEPS + 1))
    hold.settle()
    assert head_of(bench, request_.job_id).done >= 8


def test_a_render_that_can_keep_no_checkpoint_tries_for_a_while_before_it_takes_another_step(
    bench: Bench, request_: JobRequest, monkeypatch: pytest.MonkeyPatch
):
    tried_at: list[int] = []

    def away(self: FileStore, key: str, data: bytes, media_type: str = "application/json") -> str:
        tried_at.append(int(data))
        raise StoreError("Away.")

    uploads = ThreadPoolExecutor(1)
    hold = Hold(bench.store, message(request_), "one", OFTEN, bench.stops, uploads)
    hold.take()
    monkeypatch.setattr(FileStore, "create", away)
    for step in range(1, 5):
        hold.offer(step, STEPS, lambda step=step: Shot(step))
        uploads.submit(lambda: None).result()
    assert tried_at == [2, *[3] * 6, *[4] * 6]


def test_a_lease_whose_checkpoint_cannot_be_kept_is_tried_again_and_not_handed_on_for_ever(
    bench: Bench, request_: JobRequest, monkeypatch: pytest.MonkeyPatch
):
    create = FileStore.create

    def full(self: FileStore, key: str, data: bytes, media_type: str = "application/json") -> str:
        if key.endswith(".safetensors"):
            raise StoreError("Full.")
        return create(self, key, data, media_type)

    monkeypatch.setattr(FileStore, "create", full)
    with pytest.raises(TryAgain):
        bench.another(Stepper().functions(), "one", Rules(lease_s=0)).run(message(request_), retries_left=1)
    assert bench.sent == []


def test_a_head_write_of_unknown_outcome_is_read_again(
    bench: Bench, request_: JobRequest, monkeypatch: pytest.MonkeyPatch
):
    """The answer was lost after the head had moved: it is still this worker's."""
    replace, lost = FileStore.replace, []

    def lossy(self: FileStore, key: str, data: bytes, etag: str, media_type: str = "application/json") -> str:
        written = replace(self, key, data, etag, media_type)
        if not lost:
            lost.append(key)
            raise StoreError("No answer.")
        return written

    monkeypatch.setattr(FileStore, "replace", lossy)
    first = die_at(bench, request_, 9, "one")
    assert lost and len(first.done) == 8
    second = Stepper()
    bench.another(second.functions(), "two").run(message(request_), redelivered=True)
    assert int(second.resumed[0] or 0) >= 4


def test_a_head_that_could_not_be_made_is_made_with_the_first_checkpoint(
    bench: Bench, request_: JobRequest, monkeypatch: pytest.MonkeyPatch
):
    """A fresh render does not wait for its head, so it does not fail with it either."""
    create, away = FileStore.create, []

    def flaky(self: FileStore, key: str, data: bytes, media_type: str = "application/json") -> str:
        if key == keys.head(request_.job_id) and not away:
            away.append(key)
            raise StoreError("Away.")
        return create(self, key, data, media_type)

    monkeypatch.setattr(FileStore, "create", flaky)
    stepper = Stepper(fatal=7)
    runner = bench.another(stepper.functions(), "one", OFTEN)
    with pytest.raises(KeyboardInterrupt):
        runner.run(message(request_, age_s=0))
    settled(runner)
    assert away and head_of(bench, request_.job_id).done == 6


def test_a_checkpoint_that_is_gone_or_a_head_of_another_release_starts_the_render_over(
    bench: Bench, request_: JobRequest
):
    die_at(bench, request_, 9, "one")
    bench.store.delete(head_of(bench, request_.job_id).checkpoint or "")
    again = die_at(bench, request_, 3, "two", Rules(every_s=1000))
    assert again.resumed == [None]
    data, etag = bench.store.get(keys.head(request_.job_id))
    bench.store.replace(keys.head(request_.job_id), data.replace(b'"version":1', b'"version":7'), etag)
    last = Stepper()
    bench.another(last.functions(), "three").run(message(request_), redelivered=True)
    assert last.resumed == [None]
    assert bench.jobs.record(request_.job_id, Stage.RENDER) is not None


def test_a_cancelled_render_leaves_no_checkpoint(bench: Bench, request_: JobRequest):
    stepper = Stepper(pauses={7: threading.Event()})
    runner = bench.another(stepper.functions(), "one", OFTEN)
    thread = threading.Thread(target=runner.run, args=(message(request_),))
    thread.start()
    assert stepper.reached.wait(30)
    bench.jobs.cancel(request_.job_id, "user_1")
    runner.stops.hurry(request_.job_id)
    stepper.pauses[7].set()
    thread.join(30)
    settled(runner)
    assert stepper.done[-1] == 7, "no step after the one in hand"
    assert kept(bench, request_.job_id) == []


@pytest.mark.parametrize("changes", [{}, {"hop": 3}, {"epoch": 2}])
def test_waiting_handed_on_and_duplicated_messages_of_a_cancelled_job_start_nothing(
    bench: Bench, request_: JobRequest, changes: dict[str, int]
):
    bench.another(Stepper().functions(), "one", Rules(lease_s=0)).run(message(request_))
    bench.jobs.cancel(request_.job_id, "user_1")
    bench.sent.clear()
    stepper = Stepper()
    duplicate: StageMessage = message(request_).model_copy(update=changes)
    bench.another(stepper.functions(), "two").run(duplicate, redelivered=not changes)
    assert stepper.resumed == [] and bench.sent == []
    assert bench.bus.kinds()[-1] is EventKind.CANCELLED


@pytest.mark.parametrize("end", ["cancelled", "done", "failed"])
def test_who_finds_a_job_ended_removes_what_a_killed_render_has_left(bench: Bench, request_: JobRequest, end: str):
    die_at(bench, request_, 9, "one")
    if end == "cancelled":
        bench.jobs.cancel(request_.job_id, "user_1")
    elif end == "done":
        left = {key: bench.store.get(key)[0] for key in kept(bench, request_.job_id)}
        bench.another(Stepper().functions(), "two").run(message(request_))
        for key, data in left.items():  # as if that one had been killed as well, after its record
            bench.store.create(key, data)
    else:
        bench.runner.fail(message(request_), StoreError("Away."))
    assert bool(kept(bench, request_.job_id)) is (end != "failed")
    bench.another({}, "three").run(message(request_), redelivered=True)
    assert kept(bench, request_.job_id) == []


def test_two_that_take_a_render_up_at_once_end_in_one_holder(bench: Bench, request_: JobRequest):
    def take(worker: str) -> Hold:
        hold = Hold(bench.store, message(request_), worker, OFTEN, bench.stops, ThreadPoolExecutor(1))
        hold.take()
        return hold

    with ThreadPoolExecutor(2) as pool:
        holds = list(pool.map(take, ("a", "b")))
    ended = list(_outcomes(holds))
    assert sorted(ended) == ["kept", "superseded"]


def _outcomes(holds: list[Hold]) -> Iterator[str]:
    for hold in holds:
        hold.offer(1, STEPS, lambda: Shot(1))
        hold.offer(2, STEPS, lambda: Shot(2))
        try:
            hold.settle()
        except Interrupted as interrupted:
            yield interrupted.reason
        else:
            yield "kept"


def test_a_real_render_handed_on_after_every_step_is_the_same_file(bench: Bench, settings: Settings):
    """The bundled model, by the stages' own functions; each hop begins with nothing but what is in the store."""
    functions = steps.functions(settings, Catalogue.load())
    whole, hopping = (bench.accept(job(steps=2, duration_s=3.0)) for _ in range(2))
    bench.another(functions).run(message(whole))
    bench.sent = [message(hopping)]
    while bench.sent[0].stage is Stage.RENDER:
        last = bench.sent.pop(0)
        bench.another(functions, rules=Rules(lease_s=0)).run(last)
    assert last.hop == 3, "two windows of two steps"
    one, other = (bench.jobs.record(request.job_id, Stage.RENDER) for request in (whole, hopping))
    assert one is not None and other is not None
    assert other.outputs[0].digest == one.outputs[0].digest
    assert other.facts["exact"] is True


def test_a_checkpoint_that_the_model_refuses_starts_the_render_over(bench: Bench, settings: Settings):
    functions = steps.functions(settings, Catalogue.load())
    request = bench.accept(job(steps=2, duration_s=1.0))
    die_at(bench, request, 9, "one")
    bench.another(functions, "two").run(message(request), redelivered=True)
    record = bench.jobs.record(request.job_id, Stage.RENDER)
    assert record is not None and record.facts["frames"] == 8
