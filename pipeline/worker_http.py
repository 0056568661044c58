"""The worker's small HTTP side: `/healthz`, `/readyz` and `/metrics`."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from config.errors import ConfigError


class Observed(Protocol):
    """What is told about."""

    registry: CollectorRegistry

    @property
    def healthy(self) -> bool:
        """It moves."""

    @property
    def ready(self) -> bool:
        """It takes work."""


def serve(host: str, port: int, observed: Observed) -> ThreadingHTTPServer:
    """Answer in threads of their own until `shutdown`; port 0 takes a free one.

    Raises:
        ConfigError: the port is taken, or the host is none of this machine's.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer a probe or a scrape."""
            if self.path == "/metrics":
                self._answer(200, generate_latest(observed.registry), CONTENT_TYPE_LATEST)
            elif self.path in ("/healthz", "/readyz"):
                good = observed.healthy if self.path == "/healthz" else observed.ready
                self._answer(200 if good else 503, b"ok\n" if good else b"not ok\n", "text/plain")
            else:
                self._answer(404, b"/healthz /readyz /metrics\n", "text/plain")

        def _answer(self, status: int, body: bytes, media_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: a probe every few seconds is no news."""

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise ConfigError(
            f"The worker cannot listen on {host}:{port}: {error.strerror}.",
            remedy="Set `worker.metrics_port` (T2M_WORKER__METRICS_PORT); 0 takes a free one.",
        ) from error
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return server
