"""Runs the installed `t2m` command, once or as a server, in an environment of the test's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from config.settings import variables

T2M = str(Path(sys.executable).with_name("t2m"))
START_S = 90
STOP_S = 60


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without settings, and `extra`."""
    settings = {"T2M_CONFIG", *variables()}
    return {name: value for name, value in os.environ.items() if name not in settings} | dict(extra or {})


def t2m(*arguments: object, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `t2m` to its end."""
    return subprocess.run(
        [T2M, *map(str, arguments)], env=environment(env), capture_output=True, text=True, timeout=240
    )


@contextmanager
def running(log: Path, *arguments: object, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A long-running `t2m`; must end with 0 after SIGTERM. Its whole group is killed whatever happens."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [T2M, *map(str, arguments)], env=environment(env), stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_S) == 0, log.read_text()[-3000:]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until `url` answers 200."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError as error:
            assert process.poll() is None, f"ended: {log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"{url}: {error}\n{log.read_text()[-3000:]}"
            time.sleep(0.2)


def token(*arguments: object, env: Mapping[str, str] | None = None) -> str:
    """What `t2m token` prints on its last line."""
    done = t2m("token", *arguments, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]
