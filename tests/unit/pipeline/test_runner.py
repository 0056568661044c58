from __future__ import annotations

import errno
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from config.errors import Fault, T2MError
from pipeline import keys
from pipeline.errors import StoreError
from pipeline.runner import TryAgain
from pipeline.steps import Made, Work
from pipeline.store.local import FileStore
from pipeline.vocabulary import EventKind, JobRequest, Stage, Status, now
from tests.small_stages import SMALL, encode, job, metadata, render, thumbnails, write
from tests.unit.pipeline.recording import Bench, message

EXPECTED = {
    Stage.RENDER: [Stage.ENCODE],
    Stage.ENCODE: [Stage.THUMBNAILS, Stage.METADATA],
    Stage.THUMBNAILS: [],
    Stage.METADATA: [Stage.PUBLISH],
}
PUBLISHED = ["720p.mp4", "1080p.mp4", "poster-small.jpg", "metadata.json", "manifest.json"]


class Flaky(T2MError):
    fault = Fault.TRANSIENT


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def request_(bench: Bench) -> JobRequest:
    return bench.accept(job())


def test_a_chain_ends_with_one_verdict_that_names_every_artifact_by_its_bytes(bench: Bench, request_: JobRequest):
    bench.run_all(request_)
    final = bench.jobs.final(request_.job_id)
    assert final is not None and final.status is Status.COMPLETED
    assert [ref.name for ref in final.artifacts] == PUBLISHED
    assert final.metadata == {"native_frames": 17}
    for ref in final.artifacts:
        data, _ = bench.store.get(ref.key)
        assert ref.name.encode() in data and len(data) == ref.size


def test_events_come_in_the_order_of_the_stages(bench: Bench, request_: JobRequest):
    bench.run_all(request_)
    orders = [event.order for event in bench.bus.events]
    firsts = [event.order for event in bench.bus.events if event.kind is EventKind.STARTED]
    assert firsts[:3] == [(1, 0, 0, 0), (1, 1, 0, 0), (1, 2, 0, 0)]
    assert orders == sorted(orders)
    for stage in Stage:
        last = EventKind.COMPLETED if stage is Stage.PUBLISH else EventKind.FINISHED
        assert bench.bus.kinds(stage) == [EventKind.STARTED, last]


def test_a_stage_has_its_record_before_the_next_message_goes(bench: Bench, request_: JobRequest):
    def send(sent, model):
        producer = {Stage.ENCODE: Stage.RENDER, Stage.THUMBNAILS: Stage.ENCODE, Stage.METADATA: Stage.ENCODE}
        assert bench.store.head(keys.record(sent.job_id, producer[sent.stage])) is not None
        seen.append(sent.stage)

    seen: list[Stage] = []
    bench.runner._send = send
    bench.runner.run(message(request_))
    bench.runner.run(message(request_, Stage.ENCODE))
    assert seen[0] is Stage.ENCODE and set(seen[1:]) == {Stage.THUMBNAILS, Stage.METADATA}


def test_a_stage_whose_record_exists_is_not_run_again_but_handed_on(bench: Bench, request_: JobRequest):
    bench.runner.run(message(request_))
    bench.bus.events.clear()
    second = bench.another({})  # would fail with a KeyError if it ran the stage
    second.run(message(request_))
    assert bench.bus.kinds() == [EventKind.FINISHED]
    assert [m.stage for m in bench.sent] == [Stage.ENCODE, Stage.ENCODE]


def test_a_message_after_the_verdict_only_says_it_again(bench: Bench, request_: JobRequest):
    bench.run_all(request_)
    bench.bus.events.clear()
    for stage in Stage:
        bench.runner.run(message(request_, stage))
    assert bench.bus.kinds() == [EventKind.COMPLETED] * 5
    assert bench.sent == []


def test_fresh_duplicates_of_every_message_end_in_the_same_records(bench: Bench, request_: JobRequest):
    for stage in Stage:
        for _ in range(2):
            bench.another(SMALL).run(message(request_, stage, age_s=0))
        if stage is not Stage.PUBLISH:
            assert sorted(s.stage for s in bench.sent) == sorted(2 * EXPECTED[stage])
            bench.sent.clear()
    final = bench.jobs.final(request_.job_id)
    assert final is not None and [ref.name for ref in final.artifacts] == PUBLISHED
    assert bench.bus.kinds(Stage.PUBLISH)[-1] is EventKind.COMPLETED


@pytest.mark.parametrize("changes", [{"hop": 1}, {"epoch": 2}])
def test_a_message_that_was_handed_on_is_never_taken_for_fresh(bench: Bench, request_: JobRequest, changes: dict):
    bench.jobs.cancel(request_.job_id, "user_1")
    bench.runner.run(message(request_, age_s=0).model_copy(update=changes))
    assert bench.bus.kinds() == [EventKind.CANCELLED]


@pytest.mark.parametrize("ahead_s", [0, 5])
def test_a_message_that_is_tried_again_is_never_taken_for_fresh(bench: Bench, request_: JobRequest, ahead_s: float):
    """Its age does not tell where clocks differ."""
    seen = []
    again = message(request_).model_copy(update={"sent_at": now() + timedelta(seconds=ahead_s)})
    runner = bench.another(SMALL | {Stage.RENDER: lambda work: seen.append(work) or throw(Flaky("Away."))}, "one")
    with pytest.raises(TryAgain):
        runner.run(again, retries_left=2)
    bench.runner.run(message(request_))
    runner.run(again, retries_left=1, retried=True)
    assert len(seen) == 1, "the record is there"


def test_the_loser_of_a_race_adopts_the_record_of_the_winner(bench: Bench, request_: JobRequest):
    def slower(work: Work) -> Made:
        winner.run(message(request_))
        (work.out / "mezzanine.mov").write_text("other bytes")
        return Made(write(work, "mezzanine.mov")[:1], {"frames": 99})

    winner = bench.another(SMALL)
    bench.another({Stage.RENDER: slower}).run(message(request_))
    record = bench.jobs.record(request_.job_id, Stage.RENDER)
    assert record is not None and record.facts == {"frames": 17}
    assert [m.stage for m in bench.sent] == [Stage.ENCODE, Stage.ENCODE]


def test_both_neighbours_at_once_lead_to_one_published_job(bench: Bench, request_: JobRequest):
    bench.runner.run(message(request_))
    bench.runner.run(message(request_, Stage.ENCODE))
    bench.sent.clear()
    meet = threading.Barrier(2)
    functions = {
        Stage.THUMBNAILS: lambda work: (meet.wait(60), thumbnails(work))[1],
        Stage.METADATA: lambda work: (meet.wait(60), metadata(work))[1],
    }
    runner = bench.another(functions)
    threads = [threading.Thread(target=runner.run, args=(message(request_, stage),)) for stage in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [m.stage for m in bench.sent] == [Stage.PUBLISH]  # side by side in one process, they send it once
    for sent in bench.sent:
        bench.runner.run(sent)
    assert bench.bus.kinds(Stage.PUBLISH) == [EventKind.STARTED, EventKind.COMPLETED]


@pytest.mark.parametrize("last", [Stage.THUMBNAILS, Stage.METADATA])
def test_publish_is_sent_by_whoever_comes_last(bench: Bench, request_: JobRequest, last: Stage):
    bench.runner.run(message(request_))
    bench.runner.run(message(request_, Stage.ENCODE))
    bench.sent.clear()
    first = Stage.METADATA if last is Stage.THUMBNAILS else Stage.THUMBNAILS
    bench.runner.run(message(request_, first))
    assert bench.sent == []
    bench.runner.run(message(request_, last))
    assert [m.stage for m in bench.sent] == [Stage.PUBLISH]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (T2MError("Wrong.", remedy="Do right."), "T2MError"),
        (KeyError("bug"), "KeyError"),
        (SystemError(), "SystemError"),
    ],
)
def test_a_permanent_error_becomes_the_verdict_at_once(tmp_path: Path, error: Exception, code: str):
    bench = Bench(tmp_path, SMALL | {Stage.RENDER: lambda work: throw(error)})
    request = bench.accept(job())
    bench.runner.run(message(request), retries_left=3)
    final = bench.jobs.final(request.job_id)
    assert final is not None and final.failure is not None
    assert (final.status, final.failure.stage, final.failure.code) == (Status.FAILED, Stage.RENDER, code)
    assert "Traceback" not in final.failure.message and final.failure.remedy
    assert bench.bus.kinds() == [EventKind.STARTED, EventKind.FAILED]
    assert bench.sent == []


@pytest.mark.parametrize(
    "error", [Flaky("Away."), ConnectionResetError(), OSError(errno.ENOSPC, "full"), MemoryError()]
)
def test_a_fault_that_may_pass_is_tried_again_and_fails_the_job_when_retries_are_used_up(tmp_path: Path, error):
    bench = Bench(tmp_path, SMALL | {Stage.RENDER: lambda work: throw(error)})
    request = bench.accept(job())
    with pytest.raises(TryAgain):
        bench.runner.run(message(request), retries_left=1)
    assert bench.jobs.final(request.job_id) is None
    bench.runner.run(message(request), retries_left=0)
    final = bench.jobs.final(request.job_id)
    assert final is not None and final.status is Status.FAILED
    assert bench.bus.kinds() == [EventKind.STARTED, EventKind.LOG, EventKind.STARTED, EventKind.FAILED]


def test_a_retry_after_the_record_was_written_only_hands_on(bench: Bench, request_: JobRequest):
    def broken(sent, model):
        raise StoreError("Away.")

    working, bench.runner._send = bench.runner._send, broken
    with pytest.raises(TryAgain):
        bench.runner.run(message(request_), retries_left=1)
    bench.runner._send = working
    bench.runner._functions = {}
    bench.runner.run(message(request_))
    assert [m.stage for m in bench.sent] == [Stage.ENCODE]


def test_a_verdict_that_cannot_be_written_keeps_the_message(bench: Bench, request_: JobRequest, monkeypatch):
    def away(*args):
        raise StoreError("The store is away.")

    monkeypatch.setattr(FileStore, "get", away)
    monkeypatch.setattr(FileStore, "create", away)
    with pytest.raises(TryAgain):
        bench.runner.run(message(request_), retries_left=0)


def test_a_cancelled_job_stops_within_a_check_and_leaves_nothing(bench: Bench, request_: JobRequest):
    def cancelled_meanwhile(work: Work) -> Made:
        bench.jobs.cancel(request_.job_id, "user_1")
        bench.bus.listeners[0](request_.job_id)
        return render(work)

    bench.runner._functions = {Stage.RENDER: cancelled_meanwhile}
    bench.runner.run(message(request_))
    assert bench.jobs.record(request_.job_id, Stage.RENDER) is None
    assert bench.bus.kinds() == [EventKind.STARTED, EventKind.CANCELLED]
    assert bench.sent == [] and list(bench.scratch.iterdir()) == []
    assert bench.runner.stops.job_ids == ()


def test_a_job_cancelled_while_it_waits_is_not_started(bench: Bench, request_: JobRequest):
    bench.jobs.cancel(request_.job_id, "user_1")
    bench.runner.run(message(request_))
    assert bench.bus.kinds() == [EventKind.CANCELLED]


def test_a_verdict_in_the_last_moment_stands(bench: Bench, request_: JobRequest):
    def cancelled_at_the_end(work: Work) -> Made:
        bench.jobs.cancel(request_.job_id, "user_1")
        return SMALL[Stage.PUBLISH](work)

    bench.runner._functions = SMALL | {Stage.PUBLISH: cancelled_at_the_end}
    bench.run_all(request_)
    final = bench.jobs.final(request_.job_id)
    assert final is not None and final.status is Status.CANCELLED and final.cancelled_by == "user_1"
    assert bench.bus.kinds()[-1] is EventKind.CANCELLED


def test_a_draining_worker_hands_the_stage_back_with_the_next_hop(bench: Bench, request_: JobRequest):
    bench.stops.drain()
    bench.runner.run(message(request_))
    (again,) = bench.sent
    assert (again.stage, again.epoch, again.hop) == (Stage.RENDER, 1, 1)
    assert bench.jobs.final(request_.job_id) is None
    bench.another(SMALL).run(again)
    assert bench.jobs.record(request_.job_id, Stage.RENDER) is not None
    orders = [event.order for event in bench.bus.events]
    assert orders == sorted(orders)


def test_publish_refuses_records_that_do_not_chain(bench: Bench, request_: JobRequest):
    bench.runner.run(message(request_))
    bench.runner.run(message(request_, Stage.ENCODE))
    key = keys.record(request_.job_id, Stage.ENCODE)
    data, etag = bench.store.get(key)
    render_record = bench.jobs.record(request_.job_id, Stage.RENDER)
    assert render_record is not None
    read = render_record.outputs[0].digest
    bench.store.replace(key, data.replace(read.encode(), b"sha256:" + b"0" * 64), etag)
    fresh = bench.another(SMALL)
    for stage in (Stage.THUMBNAILS, Stage.METADATA, Stage.PUBLISH):
        fresh.run(message(request_, stage))
    final = bench.jobs.final(request_.job_id)
    assert final is not None and final.failure is not None and final.failure.code == "RecordsBroken"


def test_a_message_of_a_deleted_job_leaves_no_trace(bench: Bench):
    bench.runner.run(message(job()))
    assert bench.bus.events == [] and list(bench.store.list("jobs/")) == []


@pytest.mark.parametrize("stage", [Stage.RENDER, Stage.ENCODE])
def test_a_job_that_kills_three_workers_fails(bench: Bench, request_: JobRequest, stage: Stage):
    if stage is Stage.ENCODE:
        bench.runner.run(message(request_))
    deadly = SMALL | {stage: lambda work: throw(KeyboardInterrupt())}  # as dead as it gets here
    for number in range(3):
        with pytest.raises(KeyboardInterrupt):
            bench.another(deadly, f"worker-{number}").run(message(request_, stage), redelivered=number > 0)
        assert bench.jobs.final(request_.job_id) is None
    bench.another(deadly, "worker-3").run(message(request_, stage), redelivered=True)
    final = bench.jobs.final(request_.job_id)
    assert final is not None and final.failure is not None and final.failure.code == "WorkerLost"
    assert "3 workers died" in final.failure.message


@pytest.mark.parametrize("stage", [Stage.RENDER, Stage.ENCODE])
def test_workers_that_had_to_leave_in_the_middle_do_not_count(bench: Bench, request_: JobRequest, stage: Stage):
    """A restart that comes while weights are being loaded."""
    if stage is Stage.ENCODE:
        bench.runner.run(message(request_))
    for number in range(5):
        runner = bench.another({}, f"worker-{number}")
        runner._functions = SMALL | {stage: lambda work, leaves=runner: leaves.spare() or throw(KeyboardInterrupt())}
        with pytest.raises(KeyboardInterrupt):
            runner.run(message(request_, stage), redelivered=number > 0)
    bench.another(SMALL, "worker-9").run(message(request_, stage), redelivered=True)
    assert bench.jobs.record(request_.job_id, stage) is not None


def test_a_worker_that_died_before_it_could_say_its_name_counts(bench: Bench, request_: JobRequest):
    deadly = SMALL | {Stage.RENDER: lambda work: throw(KeyboardInterrupt())}
    for number in (2, 3):  # the first left no trace
        with pytest.raises(KeyboardInterrupt):
            bench.another(deadly, f"worker-{number}").run(message(request_), redelivered=True)
    bench.another(deadly, "worker-4").run(message(request_), redelivered=True)
    final = bench.jobs.final(request_.job_id)
    assert final is not None and final.failure is not None and final.failure.code == "WorkerLost"


@pytest.mark.parametrize("stage", [Stage.RENDER, Stage.ENCODE])
def test_deliveries_whose_workers_lived_do_not_count(bench: Bench, request_: JobRequest, stage: Stage):
    """A broker that restarts takes messages from workers that go on."""
    if stage is Stage.ENCODE:
        bench.runner.run(message(request_))
    flaky = SMALL | {stage: lambda work: throw(Flaky("Away."))}
    for number in range(6):
        with pytest.raises(TryAgain):
            bench.another(flaky, f"worker-{number}").run(message(request_, stage), retries_left=1, redelivered=True)
    bench.another(SMALL, "worker-9").run(message(request_, stage), redelivered=True)
    assert bench.jobs.record(request_.job_id, stage) is not None


def test_a_worker_at_which_three_jobs_fail_in_a_row_is_unfit(tmp_path: Path):
    bench = Bench(tmp_path, SMALL | {Stage.RENDER: lambda work: throw(MemoryError())})
    for _ in range(3):
        assert not bench.runner.unfit
        with pytest.raises(TryAgain):
            bench.runner.run(message(bench.accept(job())), retries_left=3)
    assert "3 jobs failed here one after another" in bench.runner.unfit and "memory" in bench.runner.unfit


def test_one_job_that_fails_often_or_one_success_between_does_not_make_a_worker_unfit(tmp_path: Path):
    bench = Bench(tmp_path, SMALL | {Stage.RENDER: lambda work: throw(MemoryError())})
    for _ in range(3):
        request = bench.accept(job())
        for left in (3, 2):
            with pytest.raises(TryAgain):
                bench.runner.run(message(request), retries_left=left)
        bench.runner._functions, broken = SMALL, bench.runner._functions
        bench.runner.run(message(bench.accept(job())))
        bench.runner._functions = broken
    assert not bench.runner.unfit


def test_failures_that_no_worker_can_help_do_not_make_one_unfit(tmp_path: Path):
    bench = Bench(tmp_path, SMALL | {Stage.RENDER: lambda work: throw(StoreError("Away."))})
    for _ in range(4):
        bench.runner.run(message(bench.accept(job())))
    assert not bench.runner.unfit


def test_what_a_dead_worker_left_of_a_render_that_is_over_goes(bench: Bench, request_: JobRequest):
    bench.runner.run(message(request_))
    left = (keys.head(request_.job_id), keys.checkpoint(request_.job_id, "1"))
    for key in left:
        bench.store.create(key, b"left")
    bench.another(SMALL).run(message(request_), redelivered=True)
    assert [m.stage for m in bench.sent] == [Stage.ENCODE, Stage.ENCODE]
    assert not any(bench.store.head(key) for key in left)


def test_a_silent_bus_does_not_stop_the_work_until_the_end_of_the_stage(bench: Bench, request_: JobRequest):
    def mute(work: Work) -> Made:
        bench.bus.broken = True
        return render(work)

    bench.runner._functions = {Stage.RENDER: mute}
    with pytest.raises(TryAgain):
        bench.runner.run(message(request_), retries_left=1)
    assert bench.jobs.record(request_.job_id, Stage.RENDER) is not None


def test_inputs_are_what_the_record_says(bench: Bench, request_: JobRequest):
    seen: dict[str, bytes] = {}

    def look(work: Work) -> Made:
        seen.update({name: path.read_bytes() for name, path in work.inputs.items()})
        return encode(work)

    bench.runner._functions = SMALL | {Stage.ENCODE: look}
    bench.runner.run(message(request_))
    bench.runner.run(message(request_, Stage.ENCODE))
    assert seen == {"mezzanine.mov": b"a red ball 1 mezzanine.mov "}
    assert list(bench.scratch.iterdir()) == []


def throw(error: BaseException) -> Made:
    raise error
