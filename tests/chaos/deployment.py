"""T2M as it runs in production, in separate processes on real servers, with a proxy on every way between them."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from config.settings import Settings, load
from tests.chaos.network import Network
from tests.chaos.processes import Keeper, Process, limit_threads
from tests.chaos.proxy import FAIR, Proxy
from tests.e2e.commands import token
from tests.services import HOST, Services, find_program, free_port

ROLES = {"api": '["api"]', "dispatcher": '["dispatcher","projector"]', "webhooks": '["webhooks"]'}
LIGHT = "thumbnails,metadata,publish"
WORKERS = {"render-1": "render.tiny", "render-2": "render.tiny", "encode-1": f"encode,{LIGHT}", "light-1": LIGHT}
SCRATCH_BYTES = 96 * 2**20
"""Size of the file system of the worker whose disk gets full: a short job needs some 10 MB."""
SMALL_DISK, ODD_CLOCK = "encode-1", "render-2"
"""Workers with a file system of their own, and with a clock that can be set."""


@dataclass(frozen=True)
class Pace:
    """Times of a deployment.

    Attributes:
        heartbeat_s: of workers; after three without one a worker is not counted on.
        hang_s: a child that does not move for so long is killed.
        checkpoint_s, checkpoint_steps: between two checkpoints of a render.
        lease_s: a render hands itself on after so long; a job of which nothing was heard for three is sent again.
    """

    heartbeat_s: float = 2.0
    hang_s: float = 240.0
    checkpoint_s: float = 0.5
    checkpoint_steps: int = 2
    lease_s: float = 10.0


class Deployment:
    """Everything running; use it in a `with`.

    Args:
        folder: for data and logs.
        workers: their names and queues.
        network: where the workers run; None: beside everything else.
    """

    def __init__(
        self,
        services: Services,
        folder: Path,
        pace: Pace = Pace(),
        workers: Mapping[str, str] = WORKERS,
        network: Network | None = None,
    ) -> None:
        self.services, self.folder, self.pace, self._network = services, folder, pace, network
        vhost, self._bucket = services.rabbitmq.vhost(), services.s3.create_bucket()
        self.broker_url = vhost
        self._database = services.postgres.dsn(services.postgres.create_database())
        self.proxies = {
            f"{side}-{server}": Proxy(f"{side}-{server}", getattr(services, server).port, host)
            for side, host, servers in (
                ("worker", network.near if network else HOST, ("rabbitmq", "s3")),
                ("gateway", HOST, ("rabbitmq", "s3", "postgres")),
            )
            for server in servers
        }
        self.clock = folder / "clock"
        self.clock.write_text("+0\n")
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self._common = limit_threads(
            {
                "TMPDIR": str(self.temporary),
                "T2M_CONFIG": "production",
                "T2M_DATA_DIR": str(folder / "gateway"),
                "T2M_STORE__BUCKET": self._bucket,
                "T2M_STORE__ACCESS_KEY": services.s3.access_key,
                "T2M_STORE__SECRET_KEY": services.s3.secret_key,
                "T2M_REDIS__URL": services.redis.url,
                "T2M_GATEWAY__HOST": HOST,
                "T2M_LIMITS__GENERAL": "10000000",
                "T2M_LIMITS__JOBS": "10000000",
                "T2M_WORKER__HEARTBEAT_S": str(pace.heartbeat_s),
                "T2M_WORKER__HANG_S": str(pace.hang_s),
                "T2M_WORKER__CHECKPOINT_S": str(pace.checkpoint_s),
                "T2M_WORKER__CHECKPOINT_STEPS": str(pace.checkpoint_steps),
                "T2M_WORKER__LEASE_S": str(pace.lease_s),
                "T2M_WEBHOOKS__ALLOW_HTTP": "true",
                "T2M_WEBHOOKS__ALLOWED_NETWORKS": '["127.0.0.0/8"]',
                "T2M_WEBHOOKS__TIMEOUT_S": "2",
                "T2M_WEBHOOKS__LEASE_S": "5",
                "T2M_WEBHOOKS__RETRIES_S": f"[{', '.join(['1'] * 900)}]",
            }
        )
        self.gateways = {name: self._gateway(name, roles) for name, roles in ROLES.items()}
        self.workers = {name: self._worker(name, queues) for name, queues in workers.items()}
        self.processes = self.gateways | self.workers
        self.keeper = Keeper(self.processes.values())

    def __enter__(self) -> Self:
        self.keeper.start()
        try:
            for process in self.processes.values():
                process.wait_ready()
            self.token = token("--user", "ada", "--expires", "1d", env=self.direct)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.keeper.close()
        for proxy in self.proxies.values():
            proxy.close()

    @property
    def direct(self) -> dict[str, str]:
        """Settings for the suite's own look at the servers, past the proxies."""
        return self._common | {
            "T2M_BROKER__URL": self.broker_url,
            "T2M_STORE__ENDPOINT": self.services.s3.endpoint,
            "T2M_DATABASE__URL": self.database_url,
        }

    @property
    def settings(self) -> Settings:
        """As the product reads them, past the proxies."""
        return load(
            broker={"url": self.broker_url, "queue_type": "quorum"},
            store={
                "kind": "s3", "endpoint": self.services.s3.endpoint, "secure": False, "bucket": self._bucket,
                "access_key": self.services.s3.access_key, "secret_key": self.services.s3.secret_key,
            },
        )  # fmt: skip

    @property
    def database_url(self) -> str:
        return _asyncpg(self._database)

    @property
    def store_url(self) -> str:
        s3 = self.services.s3
        return f"s3://{s3.access_key}:{s3.secret_key}@{s3.endpoint}/{self._bucket}"

    @property
    def busy(self) -> int:
        """Stages that run now, anywhere."""
        return sum(worker.runs for worker in self.workers.values())

    @property
    def connections(self) -> list[int]:
        """Channels of each connection to RabbitMQ."""
        listed = self.services.rabbitmq.control("list_connections", "vhost", "channels").splitlines()
        vhost = self.broker_url.rpartition("/")[2]
        return [int(channels) for name, channels in map(str.split, listed) if name == vhost]

    def heal(self) -> None:
        """Fair weather, the right time, all servers up."""
        for proxy in self.proxies.values():
            proxy.set(FAIR)
        self.clock.write_text("+0\n")
        for server in self.services.started:
            server.start()

    def _gateway(self, name: str, roles: str) -> Process:
        port = free_port()
        own = {"T2M_GATEWAY__ROLES": roles, "T2M_GATEWAY__PORT": str(port)}
        if name == "api":
            self.url = f"http://{HOST}:{port}/api/v1"
        else:
            own["T2M_GATEWAY__PUBLIC_URL"] = f"http://{HOST}:{port}"
        return Process(
            name, ("gateway",), self._common | self._ways("gateway") | own, self.folder, f"http://{HOST}:{port}/metrics"
        )

    def _worker(self, name: str, queues: str) -> Process:
        port, data_dir = free_port(), self.folder / name
        data_dir.mkdir()
        env = self._common | self._ways("worker")
        host, before = (self._network.far, self._network.enter) if self._network else (HOST, ())
        env |= {
            "T2M_DATA_DIR": str(data_dir),
            "T2M_WORKER__METRICS_HOST": host,
            "T2M_WORKER__METRICS_PORT": str(port),
        }
        if name == SMALL_DISK:
            script = f'mount -t tmpfs -o size={SCRATCH_BYTES} tmpfs {data_dir} && exec "$@"'
            before = (*before, "unshare", "--mount", "sh", "-c", script, "sh")
        if name == ODD_CLOCK:
            env |= {"LD_PRELOAD": str(self._preloaded_clock()), "CHAOS_CLOCK": str(self.clock)}
        return Process(
            name, ("worker", "--queues", queues), env, self.folder, f"http://{host}:{port}/readyz", before=before
        )

    def _preloaded_clock(self) -> Path:
        """Built from `clock.c`."""
        library, source = self.folder / "clock.so", Path(__file__).with_name("clock.c")
        subprocess.run([find_program("tcc"), "-shared", "-nostdlib", "-o", library, source], check=True)
        return library

    def _ways(self, side: str) -> dict[str, str]:
        """Addresses of the servers through the proxies of this side."""
        ways = {
            "T2M_BROKER__URL": through(self.broker_url, self.proxies[f"{side}-rabbitmq"]),
            "T2M_STORE__ENDPOINT": self.proxies[f"{side}-s3"].address,
        }
        if side == "gateway":
            ways["T2M_DATABASE__URL"] = _asyncpg(through(self._database, self.proxies["gateway-postgres"]))
        return ways


def through(url: str, proxy: Proxy) -> str:
    """`url` by way of the proxy."""
    parts = urlsplit(url)
    login = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{login}@{proxy.address}"))


def _asyncpg(dsn: str) -> str:
    return dsn.replace("postgresql://", "postgresql+asyncpg://")
