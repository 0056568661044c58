"""A gateway in a process of its own, with stages that do next to nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from config.settings import Settings
from gateway.auth.base import Role
from gateway.auth.local import LocalAuthenticator


@dataclass(frozen=True)
class NoOp:
    """A running gateway."""

    url: str
    data_dir: Path

    def token(self, user: str = "ada", role: Role = Role.USER) -> str:
        settings = Settings(data_dir=self.data_dir)
        return LocalAuthenticator.open(settings).issue(user, role, timedelta(hours=2), email=f"{user}@example.com")


@contextmanager
def serving(data_dir: Path, log_file: Path, **settings: object) -> Iterator[NoOp]:
    """Starts it, with its logs in `log_file`, and ends it."""
    command = [sys.executable, "-m", "tests.no_op_server", str(data_dir), json.dumps(settings)]
    with log_file.open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), log_file.read_text()
        yield NoOp(url, data_dir)
    finally:
        process.terminate()
        process.wait(30)
