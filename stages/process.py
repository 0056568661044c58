"""The one place that starts child processes."""

from __future__ import annotations

import logging
import os
import selectors
import shlex
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from stages.contract import Cancellation
from stages.errors import ChildFailed, ChildTimeout, DiskFull, FfmpegMissing

log = logging.getLogger(__name__)

POLL_S = 0.5
"""How often the cancellation and the time limit are looked at while a child is silent."""

GRACE_S = 2.0
"""Time a child gets between SIGTERM and SIGKILL."""

TAIL_LINES = 40
"""Lines of a child's last words that are kept."""

NO_SPACE = ("No space left on device", "Disk quota exceeded", "File too large")
"""What a child's last words say (strerror, C locale) when the disk, quota or file-size limit stopped it."""


def run(
    argv: Sequence[str],
    *,
    failure: type[ChildFailed],
    cancellation: Cancellation,
    time_limit_s: float,
    on_line: Callable[[str], None] = lambda line: None,
    cwd: Path | None = None,
) -> str:
    """Run a command to its end; returns the last lines of its stderr.

    Args:
        argv: the command, program first; no shell is involved.
        failure: raised when it ends with another code than 0.
        cancellation: asked every `POLL_S` seconds.
        on_line: gets every line of its stdout.

    Raises:
        ChildFailed: `failure`, with the command, its exit code and its last words.
        ChildTimeout: it ran longer than `time_limit_s` and was stopped.
        DiskFull: it says that it had no space.
        FfmpegMissing: the program is not there or cannot be executed.
        Interrupted: as `cancellation` asked; the child was stopped.
    """
    deadline = time.monotonic() + time_limit_s
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    with _child(argv, cwd) as child:
        for line, is_error in _lines(child):
            cancellation.check()
            if time.monotonic() > deadline:
                raise ChildTimeout(argv, time_limit_s)
            if is_error:
                tail.append(line)
            elif line:
                on_line(line)
        exit_code = child.wait()
    if exit_code:
        _fail(argv, exit_code, "\n".join(tail), failure)
    return "\n".join(tail)


def _fail(argv: Sequence[str], exit_code: int, last_words: str, failure: type[ChildFailed]) -> None:
    if exit_code == -signal.SIGXFSZ or any(words in last_words for words in NO_SPACE):
        raise DiskFull("the encoded files") from failure(argv, exit_code, last_words)
    raise failure(argv, exit_code, last_words)


@contextmanager
def _child(argv: Sequence[str], cwd: Path | None) -> Iterator[subprocess.Popen[bytes]]:
    """A running child in its own process group (Ctrl-C reaches only us), stopped and reaped when the block ends."""
    log.debug("starting %s", shlex.join(argv))
    try:
        child = subprocess.Popen(
            argv,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
            process_group=0,
        )
    except (FileNotFoundError, PermissionError) as error:
        raise FfmpegMissing(Path(argv[0]).name) from error
    with child:
        try:
            yield child
        finally:
            _stop(child)


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Terminate, wait, kill. Does nothing to a child that has ended."""
    if child.poll() is not None:
        return
    _signal(child, signal.SIGTERM)
    try:
        child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        _signal(child, signal.SIGKILL)
        child.wait()


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def _lines(child: subprocess.Popen[bytes]) -> Iterator[tuple[str, bool]]:
    """(line, is it of stderr?) as they come until both pipes close; ("", False) when `POLL_S` pass in silence."""
    with selectors.DefaultSelector() as selector:
        for pipe in (child.stdout, child.stderr):
            if pipe:  # both were asked for
                selector.register(pipe, selectors.EVENT_READ, bytearray())
        while selector.get_map():
            ready = selector.select(POLL_S)
            if not ready:
                yield "", False
            for key, _ in ready:
                for line in _read(key, selector):
                    yield line, key.fileobj is child.stderr


def _read(key: selectors.SelectorKey, selector: selectors.BaseSelector) -> Iterator[str]:
    """The whole lines that a pipe has now; keeps an unfinished one in `key.data`."""
    rest: bytearray = key.data
    data = os.read(key.fd, 65536)
    if not data:
        selector.unregister(key.fileobj)
        data = b"\n" if rest else b""
    rest.extend(data)
    *whole, unfinished = rest.split(b"\n")
    rest[:] = unfinished
    for line in whole:
        yield line.decode("utf-8", "replace").rstrip("\r")
