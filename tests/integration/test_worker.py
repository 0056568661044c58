"""The supervisor as a process of its own on real RabbitMQ and S3."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from pydantic import SecretStr

from config.settings import Settings
from pipeline.broker import open_broker
from pipeline.dispatch import first_message, send
from pipeline.jobs import Jobs
from pipeline.store.factory import open_store
from pipeline.vocabulary import Final, Stage, Status
from tests.services import free_port
from tests.small_stages import job

PATIENCE_S = 60.0
RENDER = ("render.tiny",)
REST = ("encode", "thumbnails", "metadata", "publish")


def eventually(what: Callable[[], Any], message: str = "") -> Any:
    """The first true value of `what`."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError(message or f"never came true: {what}")


class Worker:
    """`supervise` in a process of its own, with the stages of `tests.small_stages.prompted_functions`."""

    def __init__(self, settings: Settings, queues: tuple[str, ...], folder: Path) -> None:
        self.port = free_port()
        worker = settings.worker.model_copy(update={"metrics_port": self.port})
        settings = settings.model_copy(update={"worker": worker})
        self.log = folder / f"worker-{self.port}.log"
        handed = folder / f"settings-{self.port}.pickle"
        handed.write_bytes(pickle.dumps(settings))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.worker_process", str(handed), ",".join(queues)], stderr=log
            )

    def get(self, path: str) -> requests.Response:
        return requests.get(f"http://127.0.0.1:{self.port}{path}", timeout=5)

    def wait_ready(self) -> None:
        eventually(self._ready, f"not ready: {self.log.read_text()}")

    def _ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.get("/readyz").status_code == 200
        except requests.ConnectionError:
            return False

    @property
    def children(self) -> list[psutil.Process]:
        mine = psutil.Process(self.process.pid).children()
        return [child for child in mine if "spawn_main" in " ".join(child.cmdline())]

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(PATIENCE_S)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


class Chain:
    """Real servers, workers on them, and the client's side: submit and look."""

    def __init__(self, settings: Settings, folder: Path, stack: ExitStack) -> None:
        self.settings, self._folder, self._stack = settings, folder, stack
        self.broker = open_broker(settings)
        self.store = open_store(settings)
        self.jobs = Jobs(self.store)

    def worker(self, *queues: str, **changes: Any) -> Worker:
        section = self.settings.worker.model_copy(update=changes)
        worker = Worker(self.settings.model_copy(update={"worker": section}), queues, self._folder)
        self._stack.callback(end, worker.process)
        worker.wait_ready()
        return worker

    def submit(self, prompt: str = "a red ball", **changes: Any) -> str:
        request = job(prompt=prompt, **changes)
        self.jobs.accept(request)
        send(self.broker, first_message(request), request.model)
        return request.job_id

    def verdict(self, job_id: str) -> Final:
        return eventually(lambda: self.jobs.final(job_id), f"{job_id} has no verdict")

    def touch(self, name: str) -> None:
        (self.settings.data_dir / name).touch()

    def waiting(self) -> bool:
        return (self.settings.data_dir / "waiting").exists()

    def steps(self, job_id: str) -> list[int]:
        """Steps that renders of the job have done, in all workers, in their order."""
        notes = self.settings.data_dir / f"steps-{job_id}"
        return [int(line) for line in notes.read_text().split()] if notes.exists() else []

    def messages(self, queue: str) -> int:
        """Ready messages of a queue and of its dead letters."""
        names = (queue, f"{queue}.XQ")
        return sum(self.broker.channel.queue_declare(name, passive=True).method.message_count for name in names)


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()


@pytest.fixture
def chain(t2m_settings, tmp_path: Path) -> Iterator[Chain]:
    settings = t2m_settings("rabbitmq", "s3", worker={"heartbeat_s": 0.5, "grace_s": 6.0}, log={"format": "json"})
    settings.data_dir.mkdir()
    with ExitStack() as stack:
        yield Chain(settings, tmp_path, stack)


def test_a_job_goes_through_processes_of_one_stage_class_each(chain: Chain):
    worker = chain.worker(*RENDER, *REST)
    final = chain.verdict(chain.submit())
    assert final.status is Status.COMPLETED and len(final.artifacts) == 5
    assert len(worker.children) == 3
    assert worker.get("/healthz").status_code == 200
    assert worker.stop() == 0
    done = [line for line in worker.lines if line["event"] == "stage handled" and line["outcome"] == "done"]
    assert {line["stage"] for line in done} == {str(stage) for stage in Stage}
    assert {line["job_id"] for line in done} == {final.job_id} and {line["trace_id"] for line in done} == {"trace-1"}
    assert chain.settings.store.secret_key.get_secret_value() not in worker.log.read_text()


def test_a_running_render_never_holds_an_encode_back(chain: Chain):
    chain.worker(*RENDER, *REST)
    first = chain.submit()
    chain.verdict(first)
    slow = chain.submit("wait")
    eventually(chain.waiting)
    encode_only = job()
    chain.jobs.accept(encode_only)
    record = chain.jobs.record(first, Stage.RENDER)
    assert record is not None
    chain.jobs.commit(record.model_copy(update={"job_id": encode_only.job_id}))
    send(chain.broker, first_message(encode_only).model_copy(update={"stage": Stage.ENCODE}), "tiny")
    assert chain.verdict(encode_only.job_id).status is Status.COMPLETED
    assert chain.jobs.final(slow) is None
    chain.touch("go")
    assert chain.verdict(slow).status is Status.COMPLETED


@pytest.mark.parametrize("misfortune", ["hang", "crash"])
def test_a_child_that_hangs_or_dies_is_replaced_and_its_job_goes_on(chain: Chain, misfortune: str):
    worker = chain.worker(*RENDER, hang_s=2.0)
    chain.worker(*REST)
    (child,) = worker.children
    job_id = chain.submit(misfortune)
    assert chain.verdict(job_id).status is Status.COMPLETED
    assert not child.is_running()
    metrics = eventually(lambda: restarted(worker))
    assert f't2m_worker_restarts_total{{queue_class="render",reason="{misfortune}"}} 1.0' in metrics
    assert worker.stop() == 0


def restarted(worker: Worker) -> str:
    text = worker.get("/metrics").text
    return text if "t2m_worker_restarts_total{" in text else ""


def test_a_hung_job_goes_on_at_whoever_is_first(chain: Chain):
    chain.worker(*RENDER, hang_s=2.0)
    job_id = chain.submit("hang")
    eventually(lambda: (chain.settings.data_dir / f"hang-{job_id}").exists())
    chain.worker(*RENDER, *REST)
    assert chain.verdict(job_id).status is Status.COMPLETED


def handled(worker: Worker, stage: Stage) -> list[dict[str, Any]]:
    """What the worker's log says of the messages of a stage."""
    return [line for line in worker.lines if line["event"] == "stage handled" and line["stage"] == stage]


def test_a_job_that_kills_three_workers_fails_instead_of_looping(chain: Chain):
    worker = chain.worker(*RENDER)
    final = chain.verdict(chain.submit("always crash"))
    assert final.failure is not None and final.failure.code == "WorkerLost"
    assert 't2m_worker_restarts_total{queue_class="render",reason="crash"} 3.0' in restarted(worker)
    chain.worker(*REST)
    assert chain.verdict(chain.submit()).status is Status.COMPLETED


def test_sigterm_hands_a_long_render_back_and_exits_0(chain: Chain):
    first = chain.worker(*RENDER)
    job_id = chain.submit("wait")
    eventually(chain.waiting)
    assert first.stop() == 0
    assert chain.jobs.final(job_id) is None
    assert any(line.get("outcome") == "handed back" for line in first.lines)
    chain.touch("go")
    chain.worker(*RENDER, *REST)
    assert chain.verdict(job_id).status is Status.COMPLETED


def test_a_short_stage_may_finish_after_sigterm(chain: Chain):
    worker = chain.worker(*RENDER)
    job_id = chain.submit("wait")
    eventually(chain.waiting)
    worker.process.terminate()
    chain.touch("go")
    assert worker.process.wait(PATIENCE_S) == 0
    assert chain.jobs.record(job_id, Stage.RENDER) is not None


def test_children_follow_a_supervisor_that_was_killed(chain: Chain):
    worker = chain.worker(*RENDER)
    (child,) = worker.children
    worker.process.kill()
    worker.process.wait()
    eventually(lambda: not child.is_running())


def test_redelivered_duplicates_are_harmless(chain: Chain):
    worker = chain.worker(*RENDER, *REST)
    request = job()
    chain.jobs.accept(request)
    for _ in range(4):
        send(chain.broker, first_message(request), request.model)
    final = chain.verdict(request.job_id)
    assert final.status is Status.COMPLETED
    eventually(lambda: len(handled(worker, Stage.RENDER)) == 4)
    eventually(lambda: not any(chain.messages(queue) for queue in (*RENDER, *REST)))
    assert chain.jobs.final(request.job_id) == final


def test_metrics_of_all_children_are_added_up_and_pass_promtool(chain: Chain):
    worker = chain.worker(*RENDER, *REST)
    for _ in range(3):
        chain.verdict(chain.submit())
    text = eventually(lambda: complete(worker))
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert checked.returncode == 0 and not checked.stderr, checked.stdout + checked.stderr
    assert 't2m_stage_duration_seconds_count{stage="render"} 3.0' in text
    assert 't2m_jobs_total{model="tiny",outcome="completed"} 3.0' in text
    assert "job_" not in text.replace("t2m_job", "")


def complete(worker: Worker) -> str:
    text = worker.get("/metrics").text
    return text if 't2m_jobs_total{model="tiny",outcome="completed"} 3.0' in text else ""


def test_a_worker_without_its_broker_says_so_and_ends(chain: Chain, tmp_path: Path):
    broker = chain.settings.broker.model_copy(update={"url": SecretStr("amqp://u:pass-word@127.0.0.1:1/")})
    worker = Worker(chain.settings.model_copy(update={"broker": broker}), RENDER, tmp_path)
    assert worker.process.wait(PATIENCE_S) != 0
    assert "cannot be reached" in worker.log.read_text() and "pass-word" not in worker.log.read_text()
