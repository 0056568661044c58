"""The test servers themselves: they come back with their data, and nothing of them outlives the test run."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from pathlib import Path

import pika
import psutil

from tests.services import PostgreSQL, RabbitMQ, Redis, SeaweedFS

ROOT = Path(__file__).parents[2]
CRASHING_RUN = """
import os, signal
from tests.services import Services
services = Services()
servers = services.redis, services.postgres, services.s3
print(services.folder, *(server._process.pid for server in servers), flush=True)
os.kill(os.getpid(), signal.SIG{signal})
signal.pause()
"""


def test_a_killed_broker_comes_back_with_its_durable_messages(rabbitmq: RabbitMQ, rabbitmq_vhost: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(rabbitmq_vhost)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("kept", durable=True)
        channel.basic_publish("", "kept", b"body", pika.BasicProperties(delivery_mode=2), mandatory=True)
    rabbitmq.evaluate("mnesia:sync_log()")  # a queue declared a moment before the crash may be gone with it
    rabbitmq.kill()
    assert not rabbitmq.running
    rabbitmq.start()
    with pika.BlockingConnection(pika.URLParameters(rabbitmq_vhost)) as connection:
        assert connection.channel().basic_get("kept", auto_ack=True)[2] == b"body"


def test_a_restarted_database_keeps_its_databases(postgres: PostgreSQL) -> None:
    name = postgres.create_database()
    postgres.restart()
    assert postgres.execute(f"SELECT datname FROM pg_database WHERE datname = '{name}'") == name
    postgres.drop_database(name)


def test_a_killed_store_keeps_its_objects(s3: SeaweedFS, s3_bucket: str) -> None:
    s3.client.put_object(bucket_name=s3_bucket, object_name="kept", data=io.BytesIO(b"body"), length=4)
    s3.kill()
    s3.start()
    assert s3.client.get_object(bucket_name=s3_bucket, object_name="kept").read() == b"body"


def test_redis_forgets_between_tests(redis_server: Redis) -> None:
    assert redis_server._ask("DBSIZE") == ":0\r\n"
    redis_server._ask("SET", "key", "value")
    redis_server.flush()
    assert redis_server._ask("DBSIZE") == ":0\r\n"


def crash(name: str) -> tuple[Path, list[int]]:
    """Start three servers in another process that then dies of a signal; their folder and process ids."""
    script = CRASHING_RUN.format(signal=name)
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=120)
    assert run.returncode == -getattr(signal, f"SIG{name}")
    folder, *pids = run.stdout.split()
    return Path(folder), [int(pid) for pid in pids]


def gone(folder: Path, pids: list[int]) -> bool:
    return not folder.exists() and not any(map(psutil.pid_exists, pids))


def test_nothing_outlives_a_run_that_is_killed_or_terminated() -> None:
    for name in ("KILL", "TERM"):
        folder, pids = crash(name)
        deadline = time.monotonic() + 30
        while not gone(folder, pids):
            assert time.monotonic() < deadline, f"{folder} or one of {pids} is still there"
            time.sleep(0.1)
