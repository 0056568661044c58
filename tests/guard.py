"""Kills the test servers and removes their folder once the process that started them is gone, however it went.

Reads lines from stdin: `group PGID` to kill that process group, `folder PATH` to remove that tree, `done PGID` to
forget a group that ended. Acts at the end of stdin or when its parent dies; a SIGKILL of pytest cannot escape it.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import time
from contextlib import suppress

POLL_S = 0.5
"""How soon the death of the parent is noticed when a forked child still holds the pipe open."""


def commands(parent: int) -> list[tuple[str, str]]:
    """All commands received until the parent closes the pipe or dies."""
    received: list[tuple[str, str]] = []
    buffer = b""
    while os.getppid() == parent:
        if not select.select([sys.stdin], [], [], POLL_S)[0]:
            continue
        data = os.read(sys.stdin.fileno(), 65536)
        if not data:
            break
        *lines, buffer = (buffer + data).split(b"\n")
        received += [(word, rest) for word, _, rest in (line.decode().partition(" ") for line in lines)]
    return received


def signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def main() -> None:
    """Wait, then clean up. Signals meant for the whole terminal job are ignored: this process goes last."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    folders: list[str] = []
    for word, rest in commands(int(sys.argv[1])):
        if word == "folder":
            folders.append(rest)
        else:
            (groups.add if word == "group" else groups.discard)(int(rest))
    for group in groups:
        signal_group(group, signal.SIGQUIT)  # PostgreSQL's immediate shutdown: releases its shared memory
    time.sleep(POLL_S if groups else 0)
    for group in groups:
        signal_group(group, signal.SIGKILL)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
