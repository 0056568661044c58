"""The checker can fail: it reports each bug that is seeded into a copy of the tree, and nothing without one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.chaos.bugs import BUGS, Bug
from tests.mutations.run import ROOT, copy, seeded

PARTS = ("cli", "config", "models", "stages", "pipeline", "gateway", "tests/chaos")
WEIGHTS = "models/tiny/weights"
SEED, WALKS = 1, 12
CLEAN_WALKS = 2
QUICK = "the record comes before the blobs"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = copy(tmp_path_factory.mktemp("seeded"), PARTS)
    for name in ("small_stages.py", "services.py"):
        (tree / "tests" / name).write_text((ROOT / "tests" / name).read_text())
    (tree / WEIGHTS).symlink_to(ROOT / WEIGHTS)
    return tree


def walk(tree: Path, folder: Path, walks: int, rendering: bool = False) -> tuple[int, dict[str, dict[str, list[str]]]]:
    """Exit code, and what the checker found."""
    done = subprocess.run(
        [sys.executable, "-B", "-m", "tests.chaos.small_world", str(folder), str(SEED), str(walks)]
        + ["rendering"] * rendering,
        cwd=tree,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr[-3000:]
    return done.returncode, json.loads(done.stdout.splitlines()[0]) if done.returncode else {}


def test_every_bug_can_be_seeded() -> None:
    """Long before `make test-long`, where one that cannot be seeded any more is met."""
    stale = [
        bug.what for bug in BUGS for change in bug.changes if (ROOT / change.file).read_text().count(change.right) != 1
    ]
    assert stale == []


@pytest.mark.long
def test_without_a_bug_nothing_is_reported(tree: Path, tmp_path: Path) -> None:
    assert walk(tree, tmp_path / "walks", CLEAN_WALKS) == (0, {})
    assert walk(tree, tmp_path / "renders", 0, rendering=True) == (0, {})


def bugs() -> Iterator[object]:
    """One in every run, all others in `make test-long`."""
    for bug in BUGS:
        yield pytest.param(bug, id=bug.what, marks=[] if bug.what == QUICK else [pytest.mark.long])


@pytest.mark.parametrize("bug", list(bugs()))
def test_a_seeded_bug_is_reported(tree: Path, tmp_path: Path, bug: Bug) -> None:
    with ExitStack() as stack:
        for change in bug.changes:
            stack.enter_context(seeded(tree / change.file, change.right, change.wrong))
        code, violations = walk(tree, tmp_path, 0 if bug.rendering else WALKS, bug.rendering)
    assert code == 1, "the checker found nothing"
    assert any(violations[name] for name in bug.shows), violations
