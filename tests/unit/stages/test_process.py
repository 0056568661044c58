"""Children are always ended, and their last words are kept."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil
import pytest

from models.contract import Interrupted, NeverCancelled
from stages.errors import ChildTimeout, DiskFull, FfmpegFailed, FfmpegMissing
from stages.process import run


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def no_child_is_left() -> bool:
    return not [child for child in psutil.Process().children() if STUBBORN in child.cmdline()]


def start(argv: list[str], **options: object) -> str:
    return run(argv, **{"failure": FfmpegFailed, "cancellation": NeverCancelled(), "time_limit_s": 30.0, **options})


def test_hands_on_every_line_and_returns_the_last_words() -> None:
    lines: list[str] = []

    tail = start(
        python("import sys; print('one'); print('two', end=''); print('ä', file=sys.stderr)"), on_line=lines.append
    )

    assert lines == ["one", "two"]
    assert tail == "ä"


def test_keeps_command_exit_code_and_last_words() -> None:
    argv = python("import sys; sys.exit('it cannot be done')")

    with pytest.raises(FfmpegFailed, match="exit code 1: it cannot be done") as raised:
        start(argv)

    assert raised.value.argv == tuple(argv)
    assert raised.value.exit_code == 1
    assert raised.value.stderr_tail == "it cannot be done"
    assert sys.executable in raised.value.command


def test_a_program_that_is_not_there_has_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(FfmpegMissing) as raised:
        start([str(tmp_path / "ffmpeg")])

    assert "pip install" in raised.value.remedy


def test_no_space_is_told_apart() -> None:
    with pytest.raises(DiskFull):
        start(python("import sys; sys.exit('av_interleaved_write_frame(): No space left on device')"))


class WhenUp:
    """Cancels once the child has said a line."""

    def __init__(self) -> None:
        self.said = False

    def on_line(self, line: str) -> None:
        self.said = True

    def check(self) -> None:
        if self.said:
            raise Interrupted("cancelled")


def test_a_cancelled_child_is_killed_even_when_it_ignores_sigterm() -> None:
    wanted = WhenUp()

    with pytest.raises(Interrupted):
        start(python(STUBBORN), cancellation=wanted, on_line=wanted.on_line)

    assert no_child_is_left()


def test_a_child_past_its_time_limit_is_killed() -> None:
    with pytest.raises(ChildTimeout) as raised:
        start(python(STUBBORN), time_limit_s=0.2)

    assert raised.value.limit_s == 0.2
    assert no_child_is_left()


def test_the_cancellation_is_asked_at_least_once_a_second_while_the_child_is_silent() -> None:
    asked: list[float] = []

    class Clock:
        def check(self) -> None:
            asked.append(time.monotonic())

    start(python("import time; time.sleep(2.2)"), cancellation=Clock())

    assert len(asked) >= 2
