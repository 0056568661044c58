"""The notice of a cloud that takes a machine away."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline import notice


@pytest.fixture
def metadata() -> Iterator[tuple[str, list[tuple[int, bytes]]]]:
    """URL of a metadata service, and the list whose only entry it answers with."""
    says: list[tuple[int, bytes]] = [(404, b"")]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = says[0]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/preempted", says
    server.shutdown()
    server.server_close()


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
