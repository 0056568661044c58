"""Renders on real servers whose workers die, drain, or must not keep a message for long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pika
import pytest

from pipeline import keys
from pipeline.vocabulary import Status
from tests.integration.test_worker import RENDER, REST, Chain, eventually
from tests.metadata_service import metadata_service
from tests.services import RabbitMQ

STEPS = 40


@pytest.fixture
def chain(t2m_settings, tmp_path: Path) -> Iterator[Chain]:
    worker = {"heartbeat_s": 0.5, "grace_s": 6.0, "checkpoint_s": 0.5, "lease_s": 600.0}
    settings = t2m_settings("rabbitmq", "s3", worker=worker, log={"format": "json"})
    settings.data_dir.mkdir()
    with ExitStack() as stack:
        yield Chain(settings, tmp_path, stack)


@contextmanager
def consumer_timeout(rabbitmq: RabbitMQ, timeout_s: int, look_s: int) -> Iterator[None]:
    """RabbitMQ takes a message back that is held for so long, and looks so often."""
    _set_timeout(rabbitmq, timeout_s, look_s)
    try:
        yield
    finally:
        _set_timeout(rabbitmq, 1800, 60)


def _set_timeout(rabbitmq: RabbitMQ, timeout_s: int, look_s: int) -> None:
    values = {"consumer_timeout": timeout_s * 1000, "channel_tick_interval": look_s * 1000}
    rabbitmq.evaluate(", ".join(f"application:set_env(rabbit, {name}, {value})" for name, value in values.items()))


def waiting(chain: Chain) -> int:
    """Messages for renderers that nobody holds, asked over a connection that no restart has cut."""
    with pika.BlockingConnection(chain.broker.parameters) as connection:
        return connection.channel().queue_declare(*RENDER, passive=True).method.message_count


def test_a_killed_worker_costs_no_more_than_one_interval(chain: Chain):
    worker = chain.worker(*RENDER)
    job_id = chain.submit("step 0.2", steps=STEPS)
    eventually(lambda: len(chain.steps(job_id)) >= 20)
    (child,) = worker.children
    child.kill()
    chain.worker(*REST)
    assert chain.verdict(job_id).status is Status.COMPLETED
    done = chain.steps(job_id)
    assert sorted(set(done)) == list(range(1, STEPS + 1))
    assert len(done) - STEPS <= 3, "half a second and two steps are over with the third"
    eventually(lambda: not list(chain.store.list(keys.render_folder(job_id))), "nothing is left of the render")


def test_sigterm_costs_no_step(chain: Chain):
    worker = chain.worker(*RENDER)
    job_id = chain.submit("step 0.2", steps=STEPS)
    eventually(lambda: len(chain.steps(job_id)) >= 5)
    began = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - began < 6
    goes_on_without_a_step_repeated(chain, job_id, STEPS)


def test_nor_does_a_notice_that_the_machine_is_taken_away(chain: Chain):
    steps = 60  # twelve seconds: the service is asked every five
    with metadata_service() as (url, says):
        worker = chain.worker(*RENDER, notice_url=url)
        job_id = chain.submit("step 0.2", steps=steps)
        eventually(lambda: len(chain.steps(job_id)) >= 5)
        says[0] = (200, b"TRUE")
        assert worker.process.wait(60) == 0
    goes_on_without_a_step_repeated(chain, job_id, steps)


def goes_on_without_a_step_repeated(chain: Chain, job_id: str, steps: int) -> None:
    assert len(chain.steps(job_id)) < steps
    chain.worker(*RENDER, *REST)
    assert chain.verdict(job_id).status is Status.COMPLETED
    assert chain.steps(job_id) == list(range(1, steps + 1))


def test_a_step_that_outlasts_the_grace_period_does_not_keep_the_worker(chain: Chain):
    worker = chain.worker(*RENDER)
    job_id = chain.submit("step 10", steps=3)
    eventually(lambda: len(chain.steps(job_id)) == 1)
    began = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - began < 4.5
    assert any(line.get("outcome") == "handed back" for line in worker.lines)
    assert chain.steps(job_id) == [1]


def test_a_cancelled_render_stops_within_a_step(chain: Chain):
    chain.worker(*RENDER)
    job_id = chain.submit("step 0.2", steps=500)
    eventually(lambda: len(chain.steps(job_id)) >= 10)
    chain.jobs.cancel(job_id, "user_1")
    done = len(chain.steps(job_id))
    time.sleep(3)
    assert len(chain.steps(job_id)) - done <= 7, "a second until it is noticed, and the step in hand"
    eventually(lambda: not list(chain.store.list(keys.render_folder(job_id))))


def test_a_render_cancelled_while_the_broker_restarts_is_not_taken_up_again(chain: Chain, rabbitmq: RabbitMQ):
    chain.worker(*RENDER)
    job_id = chain.submit("step 0.2", steps=500)
    eventually(lambda: len(chain.steps(job_id)) >= 5)
    rabbitmq.kill()
    chain.jobs.cancel(job_id, "user_1")
    time.sleep(1.5)
    done = len(chain.steps(job_id))
    rabbitmq.start()
    eventually(lambda: waiting(chain) == 0)
    time.sleep(1)
    assert len(chain.steps(job_id)) <= done + 1
    final = chain.jobs.final(job_id)
    assert final is not None and final.status is Status.CANCELLED


def test_a_worker_at_which_three_jobs_fail_takes_itself_out(chain: Chain):
    worker = chain.worker(*RENDER)
    for _ in range(3):
        chain.submit("fail")
    assert worker.process.wait(60) == 1
    (said,) = [line for line in worker.lines if line["event"] == "worker takes itself out"]
    assert "3 jobs failed" in said["reason"] and "memory" in said["reason"]


@pytest.mark.long
def test_leases_keep_a_long_render_below_the_consumer_timeout(chain: Chain, rabbitmq: RabbitMQ):
    """The short form: messages are taken back after 6 s, looked at every second; the render takes 16 s."""
    with consumer_timeout(rabbitmq, 6, 1):
        chain.worker(*RENDER, *REST, lease_s=2.0, checkpoint_s=600.0)
        job_id = chain.submit("step 0.4", steps=STEPS)
        assert chain.verdict(job_id).status is Status.COMPLETED
    assert chain.steps(job_id) == list(range(1, STEPS + 1)), "every step once"


@pytest.mark.long
def test_without_leases_the_consumer_timeout_has_steps_repeated(chain: Chain, rabbitmq: RabbitMQ):
    """The control."""
    with consumer_timeout(rabbitmq, 6, 1):
        chain.worker(*RENDER, checkpoint_s=600.0)
        chain.worker(*RENDER, checkpoint_s=600.0)
        job_id = chain.submit("step 0.4", steps=STEPS)
        eventually(lambda: repeated(chain.steps(job_id)))


@pytest.mark.long
@pytest.mark.timeout(600)  # four minutes of steps, and the hand-overs between them
@pytest.mark.parametrize("lease_s", [20.0, 600.0])
def test_a_render_of_four_minutes_against_a_consumer_timeout_of_one(chain: Chain, rabbitmq: RabbitMQ, lease_s: float):
    """RabbitMQ looks once a minute; with leases every step is run once, without some are repeated."""
    with consumer_timeout(rabbitmq, 60, 60):
        chain.worker(*RENDER, *REST, lease_s=lease_s)
        chain.worker(*RENDER, *REST, lease_s=lease_s, checkpoint_s=600.0)
        job_id = chain.submit("step 2", steps=125)
        deadline = time.monotonic() + 400
        while (final := chain.jobs.final(job_id)) is None and time.monotonic() < deadline:
            if repeated(chain.steps(job_id)):
                break
            time.sleep(0.5)
    done = chain.steps(job_id)
    if lease_s < 60:
        assert final is not None and final.status is Status.COMPLETED
        assert done == list(range(1, 126))
    else:
        assert repeated(done)


def repeated(steps: list[int]) -> int:
    """How many of them were run once more."""
    return len(steps) - len(set(steps))
