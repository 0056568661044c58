"""Seeds each bug alone into a copy of the tree and runs the tests that are to catch it.

The copy is tested without a bug first: tests that fail anyway prove nothing. Exit code 1 when a bug survives.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.mutations.bugs import BUGS, Bug

ROOT = Path(__file__).parents[2]
TESTS = Path("tests/unit/stages")
COPIED = ("config", "models", "stages", TESTS)
IGNORED = shutil.ignore_patterns("__pycache__", "*.safetensors", "weights")

PASSED, FAILED = 0, 1
"""Exit codes of pytest; any other means that the tests did not run."""


def main() -> int:
    """Run all bugs; 0 when each was caught."""
    with tempfile.TemporaryDirectory(prefix="t2m-mutations-") as name:
        tree = copy(Path(name))
        everything = sorted({test for bug in BUGS for test in bug.tests})
        if check(tree, everything) != PASSED:
            print("The tests fail without a seeded bug; nothing can be told.")
            return 1
        survivors = [bug for bug in BUGS if not caught(tree, bug)]
    print(f"{len(BUGS) - len(survivors)} of {len(BUGS)} seeded bugs were caught.")
    return 1 if survivors else 0


def copy(tree: Path, parts: Iterable[str | Path] = COPIED) -> Path:
    """What the tests need, and no more."""
    for part in parts:
        shutil.copytree(ROOT / part, tree / part, ignore=IGNORED)
    for file in ("pyproject.toml", "tests/__init__.py"):
        shutil.copy(ROOT / file, tree / file)
    return tree


def caught(tree: Path, bug: Bug) -> bool:
    """Seed `bug`, run its tests, take it out again."""
    started = time.monotonic()
    with seeded(tree / bug.file, bug.right, bug.wrong):
        code = check(tree, bug.tests)
    if code not in (PASSED, FAILED):
        raise SystemExit(f"The tests for {bug.what!r} did not run (pytest exit code {code}).")
    print(f"{'caught  ' if code == FAILED else 'SURVIVED'} {bug.what} ({time.monotonic() - started:.0f} s)", flush=True)
    return code == FAILED


@contextmanager
def seeded(path: Path, right: str, wrong: str) -> Iterator[None]:
    """One text of a file made wrong for a while."""
    source = path.read_text(encoding="utf-8")
    if source.count(right) != 1:
        raise SystemExit(f"{path.name} does not have {right!r} exactly once: bring the seeded bugs up to date.")
    path.write_text(source.replace(right, wrong), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(source, encoding="utf-8")


def check(tree: Path, tests: Iterable[str]) -> int:
    """Exit code of pytest on the copy."""
    argv = [
        sys.executable,
        "-B",
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        *(str(TESTS / test) for test in tests),
    ]
    return subprocess.run(argv, cwd=tree, stdout=subprocess.DEVNULL, check=False).returncode
