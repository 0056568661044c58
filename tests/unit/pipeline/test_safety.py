"""The safety hook: nothing it refuses is published, and nothing passes while it is broken."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from config.catalogue import Catalogue
from config.errors import ConfigError
from config.settings import Settings
from pipeline.embedded import EmbeddedRuntime
from pipeline.safety import open_safety
from pipeline.steps import guarded
from pipeline.vocabulary import Final, Status
from tests.safety_hook import Hook
from tests.small_stages import SMALL, job


def verdict(settings: Settings, prompt: str) -> Final:
    runtime = EmbeddedRuntime(settings, Catalogue.load(), functions=guarded(SMALL, Hook()), backoff_s=(0.01,))
    runtime.start()
    try:
        request = job(prompt=prompt)
        runtime.submit(request)
        deadline = time.monotonic() + 20
        while (final := runtime.jobs.final(request.job_id)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return final
    finally:
        runtime.stop()


@pytest.mark.parametrize(
    ("prompt", "code", "message"),
    [
        ("bad video", "ContentRefused", "Not this 1080p.mp4."),
        ("hook breaks later", "SafetyAway", "The safety check does not answer."),
    ],
)
def test_what_the_hook_does_not_let_pass_is_not_published(
    t2m_settings: Callable[..., Settings], prompt: str, code: str, message: str
) -> None:
    final = verdict(t2m_settings(), prompt)
    assert (final.status, final.artifacts) == (Status.FAILED, ())
    assert final.failure is not None
    assert (final.failure.code, final.failure.message) == (code, message)


def test_what_it_lets_pass_is_published(t2m_settings: Callable[..., Settings]) -> None:
    assert verdict(t2m_settings(), "a red ball").status is Status.COMPLETED


def test_there_is_none_by_default(t2m_settings: Callable[..., Settings]) -> None:
    assert open_safety(t2m_settings()) is None
    assert guarded(SMALL, None) is SMALL


@pytest.mark.parametrize("name", ["tests.none:Hook", "tests.safety_hook:None", "tests.safety_hook:NoHook"])
def test_a_hook_that_is_none_is_refused_at_start(t2m_settings: Callable[..., Settings], name: str) -> None:
    with pytest.raises(ConfigError, match="safety hook"):
        open_safety(t2m_settings(safety={"hook": name}))


@pytest.mark.parametrize("name", ["Hook", "a b:c", "os.system", "x:y()"])
def test_a_malformed_name_is_refused(t2m_settings: Callable[..., Settings], name: str) -> None:
    with pytest.raises(ConfigError, match=r"safety\.hook"):
        t2m_settings(safety={"hook": name})
