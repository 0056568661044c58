"""`t2m` processes that are killed, stopped and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urljoin

import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.commands import T2M, environment

RESTART_S = 1.0
"""Between the death of a process and its restart, as of any supervisor."""
START_S = 300.0
"""Longest wait for readiness; on two idle cores a worker needs 3 s."""


class Process:
    """One `t2m` command with its log. Whatever it started dies and stops with it, as on a machine that fails.

    Args:
        ready: URL that answers 200 when it works.
        before: words in front of the command, such as those that give it namespaces of its own.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        env: Mapping[str, str],
        folder: Path,
        ready: str,
        before: Sequence[str] = (),
    ) -> None:
        self.name, self.log, self.data_dir = name, folder / f"{name}.log", Path(env["T2M_DATA_DIR"])
        self._command = [*before, T2M, *arguments]
        self._env, self._ready = environment(env), ready
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self.starts = 0
        self.wanted = True

    def start(self) -> None:
        with self._lock, self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
            self.starts += 1

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(self._ready, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while not self.ready:
            assert time.monotonic() < deadline, f"{self.name}: {self.log.read_text(errors='replace')[-3000:]}"
            time.sleep(0.1)

    def measured(self, name: str, **labels: str) -> float:
        """Sum of the samples of that name in its metrics which have these labels."""
        with urllib.request.urlopen(urljoin(self._ready, "/metrics"), timeout=START_S) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    @property
    def runs(self) -> int:
        """Stages that its children run now: each has a folder among the working files."""
        if not self.alive:
            return 0
        try:
            return len(list(Path(f"/proc/{self.pid}/root{self.data_dir}/scratch").iterdir()))
        except OSError:
            return 0

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """To the whole tree; parents first, so that no supervisor reacts in between."""
        for process in self._tree():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def terminate(self, timeout_s: float) -> int:
        """SIGTERM to the supervisor alone; returns the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(timeout_s)

    def _tree(self) -> list[psutil.Process]:
        if not self.alive:
            return []
        try:
            root = psutil.Process(self.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


class Keeper:
    """Starts again whatever ended, a moment later, like the supervisor of any machine."""

    def __init__(self, processes: Iterable[Process]) -> None:
        self._processes = list(processes)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        for process in self._processes:
            process.start()
        self._thread.start()

    def close(self) -> None:
        """Kill everything for good."""
        self._stop.set()
        self._thread.join()
        for process in self._processes:
            process.signal(signal.SIGCONT)
            process.kill()

    def _run(self) -> None:
        while not self._stop.wait(RESTART_S):
            for process in self._processes:
                if process.wanted and not process.alive:
                    process.start()


def limit_threads(env: dict[str, str]) -> dict[str, str]:
    """Two workers on two cores: each with one thread of torch."""
    return env | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) // 2))}
