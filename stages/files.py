"""Writing so that nothing half-done ever has a final name, and telling a full disk from other trouble."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av.error

from stages.errors import DiskFull, MediaUnreadable

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Numbers the system gives for: disk full, quota met, file-size limit met."""


@contextmanager
def workspace(out: Path) -> Iterator[Path]:
    """A hidden folder in `out` (which is made) whose files move into `out` when the block ends without an error.

    Moves are renames within one file system. Whatever happens the hidden folder is gone afterwards.

    Raises:
        DiskFull: no space is left.
    """
    with disk(out):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".partial-") as name:
            work = Path(name)
            yield work
            for path in sorted(path for path in work.rglob("*") if path.is_file()):
                target = out / path.relative_to(work)
                target.parent.mkdir(exist_ok=True)
                path.replace(target)


@contextmanager
def disk(where: Path) -> Iterator[None]:
    """Turns an `OSError` that means "no space" into `DiskFull`; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DiskFull(where.name) from error
        raise


@contextmanager
def media(what: str) -> Iterator[None]:
    """Turns FFmpeg's errors inside the block into `DiskFull` or `MediaUnreadable`, named by `what`."""
    try:
        yield
    except av.error.FFmpegError as error:
        if error.errno in FULL:
            raise DiskFull(what) from error
        raise MediaUnreadable(f"{what} cannot be read or written: {error.strerror}.") from error
