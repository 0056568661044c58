"""Gateways as processes that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from config.settings import Settings
from tests.e2e.commands import T2M, environment, wait_for
from tests.services import free_port


def environment_of(settings: Settings) -> dict[str, str]:
    """Variables that make a process use the servers of `settings`."""
    store, limits = settings.store, settings.limits
    return {
        "T2M_DATA_DIR": str(settings.data_dir),
        "T2M_BROKER__URL": settings.broker.url.get_secret_value(),
        "T2M_DATABASE__URL": settings.database_url,
        "T2M_STORE__KIND": store.kind,
        "T2M_STORE__ENDPOINT": store.endpoint,
        "T2M_STORE__SECURE": str(store.secure).lower(),
        "T2M_STORE__BUCKET": store.bucket,
        "T2M_STORE__ACCESS_KEY": store.access_key.get_secret_value(),
        "T2M_STORE__SECRET_KEY": store.secret_key.get_secret_value(),
        "T2M_LIMITS__GENERAL": str(limits.general),
        "T2M_LIMITS__JOBS": str(limits.jobs),
    }


class Gateways:
    """Two `t2m gateway` processes, one of which is killed and started anew at a time."""

    def __init__(self, variables: Mapping[str, str], folder: Path) -> None:
        self._variables = dict(variables)
        self.log = folder / "gateways.log"
        self._processes = [self._start(), self._start()]
        self.wait()

    @property
    def urls(self) -> list[str]:
        """Where they listen, the older one first."""
        return [f"http://127.0.0.1:{port}" for _, port in self._processes]

    def kill_one(self) -> None:
        """SIGKILL the older one; a new one takes its place."""
        self._kill(self._processes.pop(0)[0])
        self._processes.append(self._start())

    def wait(self) -> None:
        """Until both work."""
        for process, port in self._processes:
            wait_for(f"http://127.0.0.1:{port}/metrics", process, self.log)

    def close(self) -> None:
        """Kill both."""
        for process, _ in self._processes:
            self._kill(process)

    def _start(self) -> tuple[subprocess.Popen[bytes], int]:
        port = free_port()
        variables = environment(self._variables | {"T2M_GATEWAY__PORT": str(port)})
        with self.log.open("ab") as log:
            process = subprocess.Popen([T2M, "gateway"], env=variables, stdout=log, stderr=log, start_new_session=True)
        return process, port

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
