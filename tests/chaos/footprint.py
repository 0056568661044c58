"""What processes hold: memory, files, threads, connections to RabbitMQ, temporary folders. To be compared when idle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.chaos.deployment import Deployment
from tests.chaos.processes import Process


@dataclass(frozen=True)
class Footprint:
    """Of everything that runs.

    Attributes:
        memory: bytes that belong to a process alone (USS), by its name.
        held: counts that must not grow, by what they count.
        pooled: the most connections that a process keeps open to a server, by that server: as many as were ever needed
            at once, up to the size of its pool.
    """

    memory: dict[str, int]
    held: Counter[str]
    pooled: Counter[str]

    def grown(self, before: Footprint) -> dict[str, float]:
        """Share by which the memory of each process has grown."""
        return {name: size / before.memory[name] - 1 for name, size in self.memory.items()}


def footprint(deployment: Deployment) -> Footprint:
    """Of every process of the deployment, as it is now."""
    services = deployment.services
    memory: dict[str, int] = {}
    held: Counter[str] = Counter()
    pooled: Counter[str] = Counter()
    ways = {proxy.port: way.rpartition("-")[2] for way, proxy in deployment.proxies.items()}
    pools = {port: server for port, server in ways.items() if server != "rabbitmq"} | {services.redis.port: "redis"}
    for process in deployment.processes.values():
        for name, one in _tree(process):
            memory[name] = one.memory_full_info().uss
            held[f"threads of {name}"] = one.num_threads()
            ports = [link.raddr.port for link in one.net_connections("tcp") if link.raddr]
            kept = Counter(pools[port] for port in ports if port in pools)
            held[f"files of {name}"] = one.num_fds() - kept.total()
            pooled |= kept
        held[f"folders of {process.name}"] = _folders(process.data_dir)
    held["temporary folders"] = _folders(deployment.temporary)
    connections = deployment.connections
    held["connections"], held["channels"] = len(connections), sum(connections)
    return Footprint(memory, held, pooled)


def _tree(process: Process) -> Iterator[tuple[str, psutil.Process]]:
    """A process and what it started, by names that stay as long as none is replaced."""
    root = psutil.Process(process.pid)
    yield process.name, root
    for child in root.children(recursive=True):
        yield f"{process.name}/{child.pid}", child


def _folders(folder: Path) -> int:
    return len(list(folder.glob("**/")))
