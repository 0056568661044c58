"""Working files of stage runs. A run's folder is locked by its process, so what nobody holds was left by one that died.

Locks, as names do not tell: a container that starts again gives the same process ids, and processes of several
containers may share a volume.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def folder(scratch: Path) -> Iterator[Path]:
    """A new folder in `scratch`, removed at the end of the block."""
    with _locked(scratch, fcntl.LOCK_SH):  # no sweep comes between its making and its locking
        made = Path(tempfile.mkdtemp(dir=scratch))
        lock = os.open(made, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(lock)


def sweep(scratch: Path) -> None:
    """Remove what processes that are gone have left in `scratch`."""
    scratch.mkdir(parents=True, exist_ok=True)
    with _locked(scratch, fcntl.LOCK_EX):
        for left in scratch.iterdir():
            with suppress(OSError), _locked(left, fcntl.LOCK_EX | fcntl.LOCK_NB):  # held, gone by now, or not ours
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    """Raises OSError if it cannot be opened, or another holds it and waiting was not asked for."""
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, how)
        yield
    finally:
        os.close(lock)
