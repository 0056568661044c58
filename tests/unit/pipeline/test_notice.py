"""The notice of a cloud that takes a machine away."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pipeline import notice
from tests.metadata_service import metadata_service


@pytest.fixture
def metadata() -> Iterator[tuple[str, list[tuple[int, bytes]]]]:
    with metadata_service() as service:
        yield service


@pytest.mark.parametrize(
    ("status", "body", "given"),
    [(404, b"", False), (200, b"FALSE\n", False), (200, b"TRUE", True), (200, b'{"action": "terminate"}', True)],
)
def test_a_notice_is_an_answer_that_says_so(metadata, status: int, body: bytes, given: bool):
    url, says = metadata
    says[0] = (status, body)
    assert notice.noticed(url) is given


def test_a_service_that_is_not_there_gives_none():
    assert not notice.noticed("http://127.0.0.1:1/preempted")


def test_whoever_watches_is_told(metadata, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(notice, "EVERY_S", 0.05)
    url, says = metadata
    told = threading.Event()
    notice.watch(url, told.set)
    assert not told.wait(0.3)
    says[0] = (200, b"TRUE")
    assert told.wait(60)
