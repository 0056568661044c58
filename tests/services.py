"""Real RabbitMQ, PostgreSQL, Redis and SeaweedFS on free private ports in one temporary folder.

Used by the fixtures of `conftest.py` and by the benchmarks:

    with Services() as services:
        print(services.rabbitmq.url, services.s3.endpoint)

Each server starts when it is first asked for. `guard.py` stops them whatever happens to this process.
"""

from __future__ import annotations

import asyncio
import io
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from pwd import getpwnam
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

import asyncpg
import pika
import urllib3
from minio import Minio

HOST = "127.0.0.1"
READY_S = 240.0
"""Longest wait for a server to answer; they need 1 to 6 s on two idle cores, and a minute where many share them."""
STOP_S = 15.0
"""Longest wait for an orderly stop before SIGKILL."""
GRPC_OFFSET = 10_000
"""SeaweedFS listens for gRPC on every HTTP port + 10000."""
CLAIMS: list[socket.socket] = []
"""Hold the names of the ports that this process was given."""


class ServerError(RuntimeError):
    """A server is not installed or did not come up; carries the end of its log."""


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port that is free now, as is the one GRPC_OFFSET above it, and that no process of these tests was given.

    All are below Linux's ephemeral range (32768).
    """
    for port in random.SystemRandom().sample(range(10_500, 10_500 + GRPC_OFFSET), 500):
        if _is_free(port) and _is_free(port + GRPC_OFFSET) and _claim(port):
            return port
    raise ServerError("No free port was found.")


def _claim(port: int) -> bool:
    """Whether no other process has this port; it is this one's until it ends, by a name in the kernel."""
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0t2m-tests-port-{port}")
    except OSError:
        claim.close()
        return False
    CLAIMS.append(claim)
    return True


def find_program(name: str, *folders: str) -> str:
    """Path of a program in `folders` or on PATH.

    Raises:
        ServerError: it is not installed.
    """
    path = shutil.which(name, path=os.pathsep.join([*folders, os.environ.get("PATH", "")]))
    if path is None:
        raise ServerError(f"{name} is not installed; `make test` installs all servers.")
    return path


class Guard:
    """The clean-up process; see `guard.py`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("guard.py")), str(os.getpid())],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def tell(self, word: str, value: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word} {value}\n".encode())
        self._process.stdin.flush()

    def close(self) -> None:
        """Let it clean up and wait until it has."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=STOP_S)


class Server(ABC):
    """One server process. Methods block until the server is ready, or gone."""

    name: ClassVar[str]
    account: ClassVar[str | None] = None
    """Unix account that runs it when this process is root, for servers that refuse root."""
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, folder: Path, guard: Guard) -> None:
        self.folder = folder
        self.host = HOST
        self.port = free_port()
        self._guard = guard
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        self._own(folder)
        self._prepare()
        self.start()

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _ping(self) -> None:
        """Raise unless the server answers a real request."""

    @property
    @abstractmethod
    def version(self) -> str: ...

    def _prepare(self) -> None:  # noqa: B027 - nothing to do for most
        """Make what the server needs before its first start."""

    def _environment(self) -> Mapping[str, str]:
        return {}

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def start(self) -> None:
        """Start unless it runs, on the same port and data as before, and wait until requests are answered.

        Raises:
            ServerError: it ended or did not answer within READY_S.
        """
        if not self.running:
            self._process = self._spawn(self._command())
        self._wait_ready()

    def stop(self) -> None:
        """Orderly stop, SIGKILL after STOP_S."""
        if self._process is not None:
            self._process.send_signal(self.stop_signal)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
            self.kill()

    def kill(self) -> None:
        """SIGKILL of the whole process group: a crash."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._guard.tell("done", self._process.pid)
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        """End for good, fast; the data is thrown away next."""
        self.kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers, as in a network partition."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    @property
    def _user(self) -> str | None:
        return self.account if os.geteuid() == 0 else None

    def _own(self, path: Path) -> None:
        if self._user is not None:
            shutil.chown(path, self._user, getpwnam(self._user).pw_gid)

    def _credentials(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        return {"user": self._user, "group": getpwnam(self._user).pw_gid, "extra_groups": []}

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self._full_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **self._credentials(),
            )
        self._guard.tell("group", process.pid)
        return process

    def _run(self, *command: str, given: str | None = None) -> str:
        """Run a helper program as the server's account, `given` on its standard input; returns its output."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self._full_environment(),
            input=given,
            capture_output=True,
            text=True,
            timeout=READY_S,
            **self._credentials(),
        )
        if done.returncode:
            raise ServerError(f"{Path(command[0]).name} failed: {(done.stdout + done.stderr)[-2000:]}")
        return done.stdout

    def _full_environment(self) -> dict[str, str]:
        keep = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        return {**keep, "HOME": str(self.folder), **self._environment()}

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + READY_S
        while True:
            try:
                return self._ping()
            except Exception as error:
                if not self.running or time.monotonic() > deadline:
                    raise self._broken(error) from error
            time.sleep(0.05)

    def _broken(self, error: Exception) -> ServerError:
        tail = self.log.read_text(errors="replace")[-2000:]
        state = "does not answer" if self.running else "ended"
        self.kill()
        return ServerError(f"{self.name} {state}: {error!r}\n{tail}")


class RabbitMQ(Server):
    """One node with its own name, data and epmd, so that it meets no other RabbitMQ of this machine."""

    name = "RabbitMQ"
    account = "rabbitmq"

    def _prepare(self) -> None:
        self._scripts = Path("/usr/lib/rabbitmq/bin")
        self._node = f"t2m-{self.port}@localhost"
        self._dist_port, self._epmd_port = free_port(), free_port()
        cookie, self._cookie = self.folder / ".erlang.cookie", secrets.token_hex(16)
        cookie.write_text(self._cookie)
        cookie.chmod(0o400)
        self._own(cookie)
        config = self.folder / "rabbitmq.conf"
        config.write_text(f"listeners.tcp.default = {HOST}:{self.port}\ndisk_free_limit.absolute = 50MB\n")
        for file in ("enabled_plugins", "rabbitmq-env.conf"):
            (self.folder / file).write_text("[].\n" if file == "enabled_plugins" else "")
        self._epmd = self._spawn([find_program("epmd"), "-port", str(self._epmd_port), "-address", HOST])

    def _environment(self) -> Mapping[str, str]:
        return {
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RUNNING_UNDER_SYSTEMD": "true",  # the script becomes the Erlang VM: no shell in between for signals
        }

    def _command(self) -> list[str]:
        return [find_program("rabbitmq-server", str(self._scripts))]

    def _connect(self, url: str) -> pika.BlockingConnection:
        return pika.BlockingConnection(pika.URLParameters(f"{url}?blocked_connection_timeout=5&socket_timeout=5"))

    def _ping(self) -> None:
        self._connect(self.url).close()

    def close(self) -> None:
        super().close()
        self._epmd.kill()
        self._epmd.wait()

    def control(self, *arguments: str) -> str:
        """Output of `rabbitmqctl`, which takes half a second of a core or more: it starts an Erlang VM."""
        return self._run(str(self._scripts / "rabbitmqctl"), "--quiet", *arguments)

    def evaluate(self, expressions: str) -> None:
        """Have the node evaluate Erlang expressions, each of which must end in `ok`: what `rabbitmqctl` does, in 10 ms.

        Raises:
            ServerError: one did not, or the node does not answer.
        """
        call = [find_program("erl_call"), "-c", self._cookie, "-n", self._node, "-timeout", str(int(READY_S)), "-e"]
        results = self._run(*call, given=f"lists:usort([{expressions}]).\n")
        if results != "{ok, [ok]}":
            raise ServerError(f"RabbitMQ evaluated {expressions} to {results[:2000]}")

    def vhost(self) -> str:
        """URL of a fresh virtual host: no queues, exchanges or messages of other tests."""
        name = f"test-{secrets.token_hex(4)}"
        self.evaluate(
            f'rabbit_vhost:add(<<"{name}">>, <<"tests">>), rabbit_auth_backend_internal:set_permissions('
            f'<<"guest">>, <<"{name}">>, <<".*">>, <<".*">>, <<".*">>, <<"tests">>)'
        )
        return f"amqp://guest:guest@{HOST}:{self.port}/{name}"

    def drop_vhost(self, url: str) -> None:
        """Remove a virtual host with all in it."""
        name = url.rpartition("/")[2]
        self.evaluate(f'rabbit_vhost:delete(<<"{name}">>, <<"tests">>)')

    def limit_memory(self, share: float) -> None:
        """Block publishers once RabbitMQ uses more than this share of the machine's memory; by default 0.4."""
        self.evaluate(f"vm_memory_monitor:set_vm_memory_high_watermark({share:f})")

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{HOST}:{self.port}/%2F"

    @cached_property
    def version(self) -> str:
        connection = self._connect(self.url)
        try:
            return str(connection._impl.server_properties["version"])  # public nowhere in pika
        finally:
            connection.close()


class PostgreSQL(Server):
    """Password authentication as in production; no fsync, as only the processes are ever killed, not the machine."""

    name = "PostgreSQL"
    account = "postgres"
    stop_signal = signal.SIGINT  # "fast": ends open sessions

    def _prepare(self) -> None:
        installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
        self._bin = str(installed[-1]) if installed else ""
        self._password = secrets.token_hex(8)
        password_file = self.folder / "password"
        password_file.write_text(self._password)
        self._run(
            find_program("initdb", self._bin), "--pgdata=data", "--username=t2m", "--auth=scram-sha-256",
            "--pwfile=password", "--encoding=UTF8", "--locale=C", "--no-sync",
        )  # fmt: skip

    def _command(self) -> list[str]:
        options = {
            "port": self.port,
            "listen_addresses": HOST,
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "shared_buffers": "32MB",
            "max_connections": 200,
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [find_program("postgres", self._bin), "-D", str(self.folder / "data"), *settings]

    def dsn(self, database: str = "postgres") -> str:
        """libpq-style URL for asyncpg."""
        return f"postgresql://t2m:{self._password}@{HOST}:{self.port}/{database}"

    @property
    def url(self) -> str:
        return self.dsn()

    def execute(self, sql: str) -> str:
        """Run one statement on the maintenance database; the first value of its first row, or ""."""
        with ThreadPoolExecutor(1) as thread:  # the caller may be inside an event loop of its own
            return thread.submit(asyncio.run, self._execute(sql)).result()

    async def _execute(self, sql: str) -> str:
        connection = await asyncpg.connect(self.dsn(), timeout=5)
        try:
            return str(await connection.fetchval(sql) or "")
        finally:
            await connection.close()

    def _ping(self) -> None:
        self.execute("SELECT 1")

    def close(self) -> None:
        self.stop()  # a killed server would leave its shared memory segment behind

    def create_database(self) -> str:
        """A fresh empty database; returns its name."""
        name = f"test_{secrets.token_hex(4)}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def drop_database(self, name: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    @cached_property
    def version(self) -> str:
        return self.execute("SHOW server_version")


class Redis(Server):
    """Without persistence: T2M keeps nothing in Redis that may not be lost."""

    name = "Redis"

    def _command(self) -> list[str]:
        return [find_program("redis-server"), "--bind", HOST, "--port", str(self.port), "--save", "", "--dir", "."]

    def _ask(self, *words: str) -> str:
        with socket.create_connection((HOST, self.port), timeout=5) as connection:
            connection.sendall((" ".join(words) + "\r\n").encode())
            return connection.recv(65536).decode()

    def _ping(self) -> None:
        if self._ask("PING") != "+PONG\r\n":
            raise ServerError("Redis does not answer PING.")

    def flush(self) -> None:
        """Forget everything."""
        self._ask("FLUSHALL")

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    @cached_property
    def version(self) -> str:
        lines = self._ask("INFO", "server").splitlines()
        return next(line.split(":", 1)[1] for line in lines if line.startswith("redis_version:"))


class SeaweedFS(Server):
    """The S3 server: master, volume server, filer and S3 gateway in one process."""

    name = "SeaweedFS"
    access_key = "t2m-test"
    secret_key = "t2m-test-secret"

    def _prepare(self) -> None:
        self._ports = {name: free_port() for name in ("master", "volume", "filer")}
        (self.folder / "data").mkdir()

    def _environment(self) -> Mapping[str, str]:
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    def _command(self) -> list[str]:
        ports = [f"-{name}.port={port}" for name, port in self._ports.items()]
        return [
            find_program("weed", str(Path(sys.executable).parent)), "mini", "-dir=data", f"-ip={HOST}",
            f"-ip.bind={HOST}", f"-s3.port={self.port}", *ports, "-webdav=false", "-admin.ui=false",
            "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", "-master.volumeSizeLimitMB=64",
            f"-admin.port={self._admin_port}",
        ]  # fmt: skip

    @cached_property
    def _admin_port(self) -> int:
        return free_port()

    @cached_property
    def client(self) -> Minio:
        """For set-up and inspection by tests; bounded: 5 s a request, no retries."""
        pool = urllib3.PoolManager(timeout=urllib3.Timeout(5), retries=False)
        return Minio(self.endpoint, self.access_key, self.secret_key, secure=False, http_client=pool)

    def _ping(self) -> None:
        if not self.client.bucket_exists(bucket_name="ready"):
            self.client.make_bucket(bucket_name="ready")
        self.client.put_object(bucket_name="ready", object_name="ping", data=io.BytesIO(b"?"), length=1)

    def create_bucket(self) -> str:
        """A fresh empty bucket; returns its name."""
        name = f"test-{secrets.token_hex(4)}"
        self.client.make_bucket(bucket_name=name)
        return name

    def drop_bucket(self, name: str) -> None:
        """Remove a bucket and all in it (this server deletes recursively), so that its volumes are free again."""
        self.client.remove_bucket(bucket_name=name)

    @property
    def endpoint(self) -> str:
        """host:port, without scheme."""
        return f"{HOST}:{self.port}"

    @cached_property
    def version(self) -> str:
        return self._run(self._command()[0], "version").split(" ")[2]


ServerT = TypeVar("ServerT", bound=Server)


class Services:
    """The four servers of one run, each started on first use. Close it, or use it in a `with`."""

    def __init__(self) -> None:
        self._guard = Guard()
        self.folder = Path(tempfile.mkdtemp(prefix="t2m-servers-"))
        self.folder.chmod(0o755)  # servers run under accounts of their own
        self._guard.tell("folder", self.folder)
        self.started: list[Server] = []

    def _start(self, kind: type[ServerT]) -> ServerT:
        server = kind(self.folder / kind.name.lower(), self._guard)
        self.started.append(server)
        return server

    @cached_property
    def rabbitmq(self) -> RabbitMQ:
        return self._start(RabbitMQ)

    @cached_property
    def postgres(self) -> PostgreSQL:
        return self._start(PostgreSQL)

    @cached_property
    def redis(self) -> Redis:
        return self._start(Redis)

    @cached_property
    def s3(self) -> SeaweedFS:
        return self._start(SeaweedFS)

    @property
    def versions(self) -> dict[str, str]:
        """As told by each server that was started."""
        return {server.name: server.version for server in self.started}

    def close(self) -> None:
        """Stop everything and remove the folder."""
        try:
            for server in self.started:
                server.close()
        finally:
            self._guard.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
