"""What can go wrong in a stage.

StageError
├── FfmpegMissing      no usable ffmpeg or packager binary                 permanent
├── FfmpegFailed       ffmpeg ended with an error                          permanent
├── PackagerFailed     the HLS packager ended with an error                permanent
├── ChildTimeout       a child process ran past its time limit             transient
├── MediaUnreadable    a file that should be video cannot be decoded       permanent
├── FrameMismatch      a model or an encoder made another number of frames permanent
├── Incomplete         the published folder lacks an artifact              permanent
└── DiskFull           no space for an output                              resource
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import ClassVar

from config.errors import Fault, T2MError


class StageError(T2MError):
    """Base of this package's errors."""


class FfmpegMissing(StageError):
    """There is no ffmpeg (or packager) binary that can be run."""

    def __init__(self, tool: str = "ffmpeg", package: str = "imageio-ffmpeg") -> None:
        super().__init__(
            f"No {tool} binary was found.",
            remedy=f"Install it with `pip install {package}`; `t2m doctor` shows which one is used.",
        )


class ChildFailed(StageError):
    """A child process ended with an error.

    Attributes:
        argv: the command, program first; `command` is the same, ready to paste into a shell.
        exit_code: negative when a signal ended it.
        stderr_tail: its last words.
    """

    tool: ClassVar[str] = "The child process"

    def __init__(self, argv: Sequence[str], exit_code: int, stderr_tail: str) -> None:
        words = stderr_tail.strip().splitlines()
        last = words[-1].strip() if words else "it left no message"
        super().__init__(f"{self.tool} failed with exit code {exit_code}: {last}")
        self.argv = tuple(argv)
        self.exit_code = exit_code
        self.stderr_tail = stderr_tail

    @property
    def command(self) -> str:
        """The command as one line for a shell."""
        return shlex.join(self.argv)


class FfmpegFailed(ChildFailed):
    """FFmpeg ended with an error."""

    tool = "ffmpeg"


class PackagerFailed(ChildFailed):
    """Shaka Packager ended with an error."""

    tool = "The HLS packager"


class ChildTimeout(StageError):
    """A child process ran past its time limit and was killed.

    Attributes:
        argv: the command, program first.
        limit_s: the limit in seconds.
    """

    fault: ClassVar[Fault] = Fault.TRANSIENT

    def __init__(self, argv: Sequence[str], limit_s: float) -> None:
        super().__init__(
            f"{argv[0].rsplit('/', 1)[-1]} was stopped after {limit_s:g} s.",
            remedy="Give the worker more CPU, or ask for a shorter clip.",
        )
        self.argv = tuple(argv)
        self.limit_s = limit_s


class MediaUnreadable(StageError):
    """A file that should be a picture or a video cannot be decoded."""


class FrameMismatch(StageError):
    """Another number of frames was made than was asked for.

    Attributes:
        expected, actual: frames.
    """

    def __init__(self, what: str, expected: int, actual: int) -> None:
        super().__init__(f"{what} has {actual} frames where {expected} were asked for.")
        self.expected = expected
        self.actual = actual


class Incomplete(StageError):
    """The published folder lacks artifacts, or has two of one name.

    Attributes:
        names: of the artifacts that are wrong.
    """

    def __init__(self, problem: str, names: Sequence[str]) -> None:
        super().__init__(f"The job cannot be published: {problem} {', '.join(names)}.")
        self.names = tuple(names)


class DiskFull(StageError):
    """There is no space for an output (or a quota or file-size limit was met)."""

    fault: ClassVar[Fault] = Fault.RESOURCE

    def __init__(self, where: str) -> None:
        super().__init__(f"No space is left to write {where}.", remedy="Free some disk space and run the job again.")
