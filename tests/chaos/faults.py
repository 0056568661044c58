"""What is broken, kind by kind. Each fault does its harm, waits, and undoes what does not undo itself."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dramatiq
import pika

from pipeline.dispatch import send
from pipeline.jobs import Jobs
from pipeline.store.base import ObjectStore
from pipeline.topology import EVENTS_EXCHANGE
from pipeline.vocabulary import Stage, StageMessage, now
from tests.chaos.deployment import ODD_CLOCK, SMALL_DISK, Deployment
from tests.chaos.evidence import read_rows
from tests.chaos.processes import Process
from tests.chaos.proxy import FAIR, Weather
from tests.services import Server, ServerError

HIT_S = 60.0
"""How long a fault waits for work that it can hit."""
REPLAYED = 6
"""Jobs in flight, and jobs whatever their state, whose events come again."""
RESTART_TRIES = 5
"""PostgreSQL refuses to start while sessions of the killed one are still ending."""


@dataclass(frozen=True)
class Stakes:
    """Times of faults, in seconds.

    Attributes:
        away: RabbitMQ is gone for so long.
        brief: other outages and bad weather.
        clock: a clock jumps by up to this much in either direction.
    """

    away: float
    brief: float
    clock: float = 600.0


@dataclass
class Scene:
    """What faults need."""

    deployment: Deployment
    dice: random.Random
    stakes: Stakes
    waiting: Callable[[], set[str]]
    """Ids of the client's jobs that have not ended."""
    store: ObjectStore
    broker: dramatiq.Broker

    def worker(self, prefix: str) -> Process:
        """A worker of that kind, rather one that works."""
        those = [worker for name, worker in self.deployment.workers.items() if name.startswith(prefix)]
        busy = [worker for worker in those if worker.runs]
        return self.dice.choice(busy or those)

    def gateway(self) -> Process:
        return self.dice.choice(list(self.deployment.gateways.values()))

    def until_hit(self, hit: Callable[[], object]) -> bool:
        """Wait a while for something to hit; whether there is."""
        deadline = time.monotonic() + HIT_S
        while not hit():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def busy(self) -> bool:
        """A stage of a job runs."""
        return self.until_hit(lambda: self.deployment.busy)

    def brief(self) -> None:
        time.sleep(self.stakes.brief)


Fault = Callable[[Scene], tuple[bool, str]]
"""Returns whether it hit work in flight, and whom."""


def kill_worker(prefix: str) -> Fault:
    def fault(scene: Scene) -> tuple[bool, str]:
        scene.until_hit(lambda: scene.worker(prefix).runs)
        worker = scene.worker(prefix)
        hit = worker.runs > 0
        worker.kill()
        scene.brief()
        return hit, worker.name

    return fault


def pause_worker(prefix: str) -> Fault:
    """SIGSTOP for longer than its lease, while its work goes on elsewhere; then it goes on as if nothing had been."""

    def fault(scene: Scene) -> tuple[bool, str]:
        scene.until_hit(lambda: scene.worker(prefix).runs)
        worker = scene.worker(prefix)
        hit = worker.runs > 0
        worker.signal(signal.SIGSTOP)
        time.sleep(scene.deployment.pace.lease_s * 1.2)
        worker.signal(signal.SIGCONT)
        return hit, worker.name

    return fault


def kill_gateway(scene: Scene) -> tuple[bool, str]:
    hit = scene.until_hit(scene.waiting)
    gateway = scene.gateway()
    gateway.kill()
    scene.brief()
    return hit, gateway.name


def pause_gateway(scene: Scene) -> tuple[bool, str]:
    hit = scene.until_hit(scene.waiting)
    gateway = scene.gateway()
    gateway.signal(signal.SIGSTOP)
    time.sleep(scene.deployment.pace.lease_s * 1.2)
    gateway.signal(signal.SIGCONT)
    return hit, gateway.name


def stop_rabbitmq(scene: Scene) -> tuple[bool, str]:
    hit, server = scene.busy(), scene.deployment.services.rabbitmq
    server.stop()
    scene.brief()
    start(server)
    return hit, server.name


def rabbitmq_away(scene: Scene) -> tuple[bool, str]:
    """For minutes, in which jobs are accepted and workers finish what they have."""
    hit, server = scene.busy(), scene.deployment.services.rabbitmq
    server.stop()
    time.sleep(scene.stakes.away)
    start(server)
    return hit, server.name


def end_server(name: str, end: Callable[[Server], None]) -> Fault:
    """Ended one way or the other, and started again at once."""

    def fault(scene: Scene) -> tuple[bool, str]:
        hit, server = scene.busy(), getattr(scene.deployment.services, name)
        end(server)
        start(server)
        return hit, server.name

    return fault


def start(server: Server) -> None:
    for left in reversed(range(RESTART_TRIES)):
        try:
            server.start()
            break
        except ServerError:
            if not left:
                raise
            time.sleep(1)


def weather(what: Callable[[random.Random], Weather]) -> Fault:
    """Bad weather on one way for a while."""

    def fault(scene: Scene) -> tuple[bool, str]:
        hit = scene.busy()
        proxy = scene.dice.choice(list(scene.deployment.proxies.values()))
        proxy.set(what(scene.dice))
        scene.brief()
        proxy.set(FAIR)
        return hit and proxy.connections > 0, proxy.name

    return fault


def reset(scene: Scene) -> tuple[bool, str]:
    hit = scene.busy()
    proxy = scene.dice.choice(list(scene.deployment.proxies.values()))
    hit = hit and proxy.connections > 0
    proxy.reset()
    return hit, proxy.name


def fill_disk(scene: Scene) -> tuple[bool, str]:
    """No space is left for one worker's working files."""
    worker = scene.deployment.workers[SMALL_DISK]
    hit = scene.until_hit(lambda: worker.runs)
    ballast = Path(f"/proc/{worker.pid}/root{worker.data_dir}/ballast")
    try:
        with ballast.open("wb") as file:
            free = os.fstatvfs(file.fileno())
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - 8192)
        scene.brief()
        ballast.unlink(missing_ok=True)
    except OSError:  # somebody else filled it first, or killed that worker
        ballast.unlink(missing_ok=True)
    return hit, worker.name


def jump_clock(scene: Scene) -> tuple[bool, str]:
    """One worker's clock is suddenly wrong, and later right again."""
    worker = scene.deployment.workers[ODD_CLOCK]
    hit = scene.until_hit(lambda: worker.runs)
    by_s = scene.dice.uniform(-1, 1) * scene.stakes.clock
    scene.deployment.clock.write_text(f"{by_s:+.0f}\n")
    scene.brief()
    scene.deployment.clock.write_text("+0\n")
    return hit, f"{worker.name} {by_s:+.0f} s"


def duplicate_messages(scene: Scene) -> tuple[bool, str]:
    """Every stage message that was sent for some jobs in flight comes again, in any order."""
    sent = [message for job_id in sorted(scene.waiting())[:4] for message in known_messages(scene.store, job_id)]
    scene.dice.shuffle(sent)
    for message in sent:
        model = Jobs(scene.store).request(message.job_id).model
        send(scene.broker, message, model)
    return bool(sent), f"{len(sent)} messages"


def known_messages(store: ObjectStore, job_id: str) -> list[StageMessage]:
    """Those that must have been sent by now: of each stage whose producers have left their records."""
    jobs = Jobs(store)
    present = jobs.present(job_id)
    after = {Stage.RENDER: (), Stage.ENCODE: (Stage.RENDER,), Stage.THUMBNAILS: (Stage.ENCODE,)}
    after |= {Stage.METADATA: (Stage.ENCODE,), Stage.PUBLISH: (Stage.THUMBNAILS, Stage.METADATA)}
    stages = [s for s, before in after.items() if all(f"jobs/{job_id}/{b}.json" in present for b in before)]
    if f"jobs/{job_id}/request.json" not in present:
        return []
    sent_at = jobs.request(job_id).created_at
    return [StageMessage(job_id=job_id, stage=stage, trace_id="duplicate", sent_at=sent_at) for stage in stages]


def replay_events(scene: Scene) -> tuple[bool, str]:
    """Events that were stored already arrive again, the latest first."""
    rows, hit = read_events(scene)
    connection = pika.BlockingConnection(pika.URLParameters(scene.deployment.broker_url))
    channel = connection.channel()
    scene.dice.shuffle(rows)
    for row in rows:
        body = json.dumps(row | {"version": 1})
        properties = pika.BasicProperties(type="event", content_type="application/json", message_id=row["id"])
        channel.basic_publish(EVENTS_EXCHANGE, f"job.{row['job_id']}.{row['kind']}", body, properties)
    connection.close()
    return hit, f"{len(rows)} events"


def read_events(scene: Scene) -> tuple[list[dict[str, Any]], bool]:
    """The stored events of some jobs as workers said them, and whether one of these jobs is in flight."""
    log = asyncio.run(read_rows(scene.deployment.database_url)).log
    open_ones = sorted(scene.waiting() & set(log))[:REPLAYED]
    chosen = {*open_ones, *scene.dice.sample(sorted(log), min(REPLAYED, len(log)))}
    names = ("job_id", "kind", "stage", "epoch", "hop", "n")
    rows = [
        {name: entry[name] for name in names} | {"id": entry["event_id"], "at": now().isoformat()}
        for job_id in sorted(chosen)
        for entry in log[job_id]
    ]
    return rows, bool(open_ones)


KINDS: dict[str, Fault] = {
    "kill render worker": kill_worker("render"),
    "pause render worker past its lease": pause_worker("render"),
    "kill encode worker": kill_worker("encode"),
    "pause encode worker past its lease": pause_worker("encode"),
    "kill gateway role": kill_gateway,
    "pause gateway role past its lease": pause_gateway,
    "stop RabbitMQ": stop_rabbitmq,
    "kill RabbitMQ": end_server("rabbitmq", Server.kill),
    "restart RabbitMQ": end_server("rabbitmq", Server.stop),
    "RabbitMQ away": rabbitmq_away,
    "kill PostgreSQL": end_server("postgres", Server.kill),
    "restart PostgreSQL": end_server("postgres", Server.stop),
    "kill Redis": end_server("redis", Server.kill),
    "restart Redis": end_server("redis", Server.stop),
    "kill S3": end_server("s3", Server.kill),
    "restart S3": end_server("s3", Server.stop),
    "latency": weather(lambda dice: Weather(latency_s=dice.uniform(0.05, 0.5))),
    "narrow way": weather(lambda dice: Weather(bytes_per_s=dice.uniform(2e4, 2e5))),
    "black hole": weather(lambda dice: Weather(open=False)),
    "connections reset": reset,
    "disk full": fill_disk,
    "duplicated messages": duplicate_messages,
    "repeated and reordered events": replay_events,
    "clock jumps": jump_clock,
}
LANES: dict[str, tuple[str, ...]] = {
    "servers": tuple(kind for kind in KINDS if kind.endswith(("RabbitMQ", "away", "PostgreSQL", "Redis", "S3"))),
    "processes": tuple(kind for kind in KINDS if kind.startswith(("kill", "pause")) and kind.split()[-1] in (
        "worker", "lease", "role",
    )),
}  # fmt: skip
LANES["world"] = tuple(kind for kind in KINDS if kind not in LANES["servers"] + LANES["processes"])
"""Faults of one lane come one after the other, lanes go side by side: so servers fail while workers die."""
