from __future__ import annotations

import io
import json
import logging as stdlib

import pytest
import structlog

from config.settings import LogSettings
from pipeline import logging


@pytest.fixture(autouse=True)
def restored():
    root = stdlib.getLogger()
    before = root.handlers[:], root.level
    levels = {name: stdlib.getLogger(name).level for name in logging.QUIET}
    yield
    root.handlers, root.level = before[0], before[1]
    for name, level in levels.items():
        stdlib.getLogger(name).setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_own_lines_and_those_of_libraries_are_json_with_the_job_they_belong_to():
    stream = io.StringIO()
    logging.configure(LogSettings(format="json"), stream=stream)
    with structlog.contextvars.bound_contextvars(job_id="job_1", trace_id="t"):
        structlog.get_logger("pipeline.x").warning("stage failed", code="StoreError")
        stdlib.getLogger("dramatiq.worker").error("Lost %s.", "the broker")
    own, foreign = lines(stream)
    assert (own["event"], own["code"], own["job_id"], own["level"]) == (
        "stage failed",
        "StoreError",
        "job_1",
        "warning",
    )
    assert (foreign["event"], foreign["trace_id"], foreign["logger"]) == ("Lost the broker.", "t", "dramatiq.worker")
    assert own["timestamp"].endswith("Z")


@pytest.mark.parametrize("form", ["json", "console"])
def test_secrets_are_cut_out_wherever_they_turn_up(form: str):
    stream = io.StringIO()
    logging.configure(LogSettings(format=form), secrets=["s3cr3t-key", "x"], stream=stream)
    log = structlog.get_logger()
    log.warning("amqp://user:pass@host/ refused", nested={"keys": ["a s3cr3t-key b"]}, url="?X-Amz-Signature=0abc&x=1")
    try:
        raise RuntimeError("token s3cr3t-key")
    except RuntimeError:
        log.exception("failed")
    text = stream.getvalue()
    assert "s3cr3t-key" not in text and "user:pass" not in text and "0abc" not in text
    assert text.count(logging.HIDDEN) >= 4 and "host" in text and "RuntimeError" in text


def test_a_traceback_stays_on_its_line():
    stream = io.StringIO()
    logging.configure(LogSettings(format="json"), stream=stream)
    try:
        raise KeyError("bug")
    except KeyError:
        structlog.get_logger().exception("failed")
    (line,) = lines(stream)
    assert "Traceback" in line["exception"]


def test_the_level_is_kept_and_pika_is_quiet():
    stream = io.StringIO()
    logging.configure(LogSettings(level="WARNING"), stream=stream)
    structlog.get_logger().info("too quiet")
    stdlib.getLogger("pika.adapters").error("Stream connection lost")
    assert stream.getvalue() == ""


def test_all_secrets_of_the_settings_are_known(t2m_settings):
    settings = t2m_settings(store={"access_key": "who", "secret_key": "top-secret"}, broker={"url": "amqp://u:p@h/"})
    assert {"top-secret", "amqp://u:p@h/"} <= set(logging.secrets_of(settings))
