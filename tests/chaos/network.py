"""A network of its own for some processes, behind a router that can stop forwarding: a partition.

    this machine ── near ─ router ─ far ── processes

Router and far side are network name spaces without names, each held by a process that waits for the end of its input.
So they are gone, with their links and routes, as soon as the test and what it started there have ended, however it was.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from tests.services import find_program

SETUP_S = 30.0


class Namespace:
    """A network name space, while it is open."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen([find_program("unshare"), "--net", "cat"], stdin=subprocess.PIPE)
        deadline = time.monotonic() + SETUP_S
        while _network("self") == _network(str(self._holder.pid)):
            assert self._holder.poll() is None and time.monotonic() < deadline, "unshare needs root"
            time.sleep(0.01)
        self.run("ip", "link", "set", "lo", "up")

    @property
    def pid(self) -> str:
        """Of the process that holds it."""
        return str(self._holder.pid)

    @property
    def enter(self) -> tuple[str, ...]:
        """Words in front of a command that is to run here."""
        return ("nsenter", "--target", self.pid, "--net")

    def run(self, *command: str) -> None:
        run(*self.enter, *command)

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()


class Network:
    """Use it in a `with`.

    Attributes:
        near, far: addresses of this machine and of the processes in the network.
    """

    def __init__(self) -> None:
        net = f"198.18.{random.SystemRandom().randrange(256)}"  # RFC 2544: for tests of networks
        self._name = f"t2m-{os.getpid()}"
        self.near, self._router_near, self._router_far, self.far = (f"{net}.{n}" for n in (1, 2, 5, 6))

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._router, self._far = Namespace(), Namespace()
            stack.callback(self._router.close)
            stack.callback(self._far.close)
            run("ip", "link", "add", self._name, "type", "veth", "peer", "name", "near", "netns", self._router.pid)
            self._router.run("ip", "link", "add", "far", "type", "veth", "peer", "name", "up0", "netns", self._far.pid)
            run("ip", "address", "add", f"{self.near}/30", "dev", self._name)
            run("ip", "link", "set", self._name, "up")
            for space, link, address in (
                (self._router, "near", self._router_near),
                (self._router, "far", self._router_far),
                (self._far, "up0", self.far),
            ):
                space.run("ip", "address", "add", f"{address}/30", "dev", link)
                space.run("ip", "link", "set", link, "up")
            self._far.run("ip", "route", "add", "default", "via", self._router_far)
            run("ip", "route", "add", f"{self.far}/32", "via", self._router_near, "dev", self._name)
            self.mend()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def enter(self) -> tuple[str, ...]:
        """Words in front of a command that is to run in the network."""
        return self._far.enter

    def cut(self) -> None:
        """From now on packets vanish in either direction: no reset, no error, no end of a connection."""
        self._forward("0")

    def mend(self) -> None:
        self._forward("1")

    def _forward(self, switch: str) -> None:
        self._router.run("sh", "-c", f"echo {switch} > /proc/sys/net/ipv4/ip_forward")


def run(*command: str) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=SETUP_S)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


def _network(pid: str) -> str:
    return str(Path(f"/proc/{pid}/ns/net").readlink())
