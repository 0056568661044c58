"""The chain as a whole, in this process: real store, real broker threads, small stages."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dramatiq
import pytest

from config.catalogue import Catalogue
from config.errors import Fault, T2MError
from config.settings import Settings
from pipeline import keys
from pipeline.broker import InProcessBroker
from pipeline.bus.factory import open_subscriber
from pipeline.dispatch import first_message, send
from pipeline.embedded import EmbeddedRuntime
from pipeline.runner import Runner
from pipeline.steps import Functions, Made, Work
from pipeline.store.local import FileStore
from pipeline.topology import queue_name
from pipeline.vocabulary import Final, Head, Stage, Status
from tests.small_stages import SMALL, encode, job, render

PATIENCE_S = 30.0


class Flaky(T2MError):
    fault = Fault.TRANSIENT


@contextmanager
def running(settings: Settings, functions: Functions = SMALL) -> Iterator[EmbeddedRuntime]:
    runtime = EmbeddedRuntime(settings, Catalogue.load(), functions=functions, backoff_s=(0.01,))
    runtime.start()
    try:
        yield runtime
    finally:
        runtime.stop()


def verdict(runtime: EmbeddedRuntime, job_id: str) -> Final:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if final := runtime.jobs.final(job_id):
            return final
        time.sleep(0.01)
    raise AssertionError(f"{job_id} has no verdict")


@pytest.fixture
def settings(t2m_settings) -> Settings:
    return t2m_settings(worker={"heartbeat_s": 0.05})


def test_jobs_side_by_side_all_complete(settings: Settings):
    requests = [job(seed=seed) for seed in range(6)]
    with running(settings) as runtime:
        for request in requests:
            runtime.submit(request)
        finals = [verdict(runtime, request.job_id) for request in requests]
    assert {final.status for final in finals} == {Status.COMPLETED}
    assert len({final.artifacts[0].digest for final in finals}) == 6


def test_several_runtimes_follow_one_another_in_a_process(settings: Settings):
    for _ in range(3):
        with running(settings) as runtime:
            request = job()
            runtime.submit(request)
            assert verdict(runtime, request.job_id).status is Status.COMPLETED
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]


def test_a_blip_is_retried_and_forgotten(settings: Settings):
    failures = iter([Flaky("Away."), Flaky("Still away.")])

    def flaky(work: Work) -> Made:
        for error in failures:
            raise error
        return encode(work)

    with running(settings, SMALL | {Stage.ENCODE: flaky}) as runtime:
        request = job()
        runtime.submit(request)
        assert verdict(runtime, request.job_id).status is Status.COMPLETED


def test_when_retries_are_used_up_the_job_fails_and_no_letter_dies(settings: Settings):
    tries: list[int] = []

    def broken(work: Work) -> Made:
        tries.append(1)
        raise Flaky("The disk is away.", remedy="Bring it back.")

    with running(settings, SMALL | {Stage.ENCODE: broken}) as runtime:
        request = job()
        runtime.submit(request)
        final = verdict(runtime, request.job_id)
        assert not runtime.broker.dead_letters
    assert final.failure is not None
    assert (final.failure.code, final.failure.remedy) == ("Flaky", "Bring it back.")
    assert len(tries) == 4


def test_a_busy_render_holds_no_encode_back(settings: Settings):
    go = threading.Event()

    def slow_once(work: Work) -> Made:
        if work.request.prompt == "slow":
            go.wait(PATIENCE_S)
        return render(work)

    with running(settings, SMALL | {Stage.RENDER: slow_once}) as runtime:
        quick = job(prompt="quick")
        runtime.submit(quick)
        runtime.submit(job(prompt="slow"))
        assert verdict(runtime, quick.job_id).status is Status.COMPLETED
        go.set()


def test_work_interrupted_by_a_stop_goes_on_in_the_next_runtime(settings: Settings):
    started = threading.Event()

    def endless(work: Work) -> Made:
        started.set()
        while True:
            work.cancellation.check()
            time.sleep(0.005)

    request = job()
    with running(settings, SMALL | {Stage.ENCODE: endless}) as runtime:
        runtime.submit(request)
        assert started.wait(PATIENCE_S)
    assert runtime.jobs.final(request.job_id) is None
    with running(settings, SMALL | {Stage.RENDER: lambda work: pytest.fail("rendered twice")}) as runtime:
        send(runtime.broker, first_message(request, epoch=2), request.model)
        assert verdict(runtime, request.job_id).status is Status.COMPLETED


def test_a_stop_that_comes_while_weights_are_loaded_is_not_blamed_on_the_job(settings: Settings):
    loading, loaded = threading.Event(), threading.Event()
    request = job()

    def load(work: Work) -> Made:
        loading.set()
        loaded.wait(PATIENCE_S)
        return render(work)

    runtime = EmbeddedRuntime(settings, Catalogue.load(), functions=SMALL | {Stage.RENDER: load})
    runtime.start()
    runtime.submit(request)
    assert loading.wait(PATIENCE_S)
    runtime.stop(grace_s=0.2)
    head = Head.model_validate_json(runtime.store.get(keys.head(request.job_id))[0])
    loaded.set()
    assert head.takers == ()


def test_a_running_job_is_cancelled_at_once(settings: Settings):
    started, stopped = threading.Event(), threading.Event()

    def endless(work: Work) -> Made:
        started.set()
        try:
            while True:
                work.cancellation.check()
                time.sleep(0.005)
        finally:
            stopped.set()

    with running(settings, SMALL | {Stage.RENDER: endless}) as runtime:
        request = job()
        runtime.submit(request)
        assert started.wait(PATIENCE_S)
        assert runtime.cancel(request.job_id, "user_1").status is Status.CANCELLED
        assert stopped.wait(PATIENCE_S)


async def test_heartbeats_name_the_queues_and_the_jobs_in_hand(settings: Settings):
    go = threading.Event()
    functions = SMALL | {Stage.RENDER: lambda work: (go.wait(PATIENCE_S), render(work))[1]}
    with running(settings, functions) as runtime:
        watcher = open_subscriber(settings, memory=runtime.bus, durable=False)
        await watcher.start()
        request = job()
        runtime.submit(request)
        beats = {}
        async for item, _ in watcher.events():
            if hasattr(item, "queues"):
                beats[item.worker_id.rpartition("-")[2]] = item
            if len(beats) == 3 and beats["render"].job_ids:
                break
        go.set()
        await watcher.close()
    assert "render.tiny" in beats["render"].queues
    assert (beats["encode"].queues, beats["light"].queues) == (("encode",), ("thumbnails", "metadata", "publish"))
    assert beats["render"].job_ids == (request.job_id,)
    assert beats["encode"].memory_bytes > 1_000_000


def envelope(body: dict[str, Any]) -> dramatiq.Message[None]:
    return dramatiq.Message(
        queue_name=queue_name(Stage.RENDER, "tiny"), actor_name="render", args=(body,), kwargs={}, options={}
    )


def test_a_message_of_another_version_fails_its_job_visibly(settings: Settings):
    with running(settings) as runtime:
        request = job()
        runtime.jobs.accept(request)
        body = first_message(request).model_dump(mode="json") | {"version": 2}
        runtime.broker.enqueue(envelope(body))
        final = verdict(runtime, request.job_id)
        assert final.failure is not None and final.failure.code == "MessageRefused"
        assert "version 2" in final.failure.message


def test_a_message_that_names_no_job_is_dead_lettered_and_holds_nothing_up(settings: Settings):
    with running(settings) as runtime:
        runtime.broker.enqueue(envelope({"version": 1, "what": "ever"}))
        request = job()
        runtime.submit(request)
        assert verdict(runtime, request.job_id).status is Status.COMPLETED
        assert [letter.args[0]["what"] for letter in runtime.broker.dead_letters] == ["ever"]


def test_a_second_delivery_of_every_message_changes_nothing(settings: Settings, monkeypatch):
    sent, handled = [], []

    def twice(broker, message, *, delay=None):
        sent.extend([message, message])
        once(broker, message, delay=delay)
        return once(broker, message, delay=delay)

    def noted(runner, message, **how):
        run(runner, message, **how)
        handled.append(message)

    once, run = InProcessBroker.enqueue, Runner.run
    monkeypatch.setattr(InProcessBroker, "enqueue", twice)
    monkeypatch.setattr(Runner, "run", noted)
    with running(settings) as runtime:
        request = job()
        runtime.submit(request)
        final = verdict(runtime, request.job_id)
        records = runtime.jobs.present(request.job_id)
        deadline = time.monotonic() + PATIENCE_S
        while len(handled) < len(sent) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(handled) == len(sent) > 2 * len(Stage)
        assert (runtime.jobs.final(request.job_id), runtime.jobs.present(request.job_id)) == (final, records)
        assert not runtime.broker.dead_letters
    assert final.status is Status.COMPLETED


def test_a_store_of_ones_own_is_used(settings: Settings, tmp_path):
    store = FileStore(tmp_path / "elsewhere")
    runtime = EmbeddedRuntime(settings, Catalogue.load(), store=store, functions=SMALL)
    request = job()
    runtime.start()
    runtime.submit(request)
    verdict(runtime, request.job_id)
    runtime.stop()
    assert any(store.list(f"jobs/{request.job_id}/"))
