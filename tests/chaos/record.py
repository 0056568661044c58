"""What the client's side saw, one JSON object a line: the checker's only word on what was promised.

| what | other fields |
|---|---|
| attempt | key |
| accepted | key, job_id, request (equal for requests that ask for the same video), webhook (a receiver was named) |
| status | job_id, status, progress |
| cancel | job_id, answer: the status the API gave |
| download | job_id, sha256 |
| webhook | job_id, message_id, event, progress |
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Record:
    """Appends lines to a file; thread-safe, each line is with the kernel when the call returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def note(self, what: str, **fields: Any) -> None:
        line = json.dumps({"at": round(time.time(), 3), "what": what, **fields})
        with self._lock:
            self._file.write(line + "\n")

    def close(self) -> None:
        self._file.close()


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """What was noted; a line that was cut off by a kill is none."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue
