"""A receiver of webhooks that fails or hangs now and then; what it was told is in the record."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.chaos.record import Record
from tests.services import HOST


@contextmanager
def receiver(record: Record, dice: random.Random) -> Iterator[str]:
    """Give its URL; it must be there until the last message has arrived."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 10.0

        def do_POST(self) -> None:
            told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            record.note(
                "webhook",
                job_id=told["data"]["job_id"],
                message_id=self.headers["webhook-id"],
                event=told["event"],
                progress=told["data"].get("progress"),
            )
            mood = dice.random()
            if mood < 0.05:
                time.sleep(3)
            self.send_response(500 if mood < 0.2 else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, name="receiver", daemon=True).start()
        try:
            yield f"http://{HOST}:{server.server_port}/hook"
        finally:
            server.shutdown()
