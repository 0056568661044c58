"""`t2m sweep` as an operator runs it."""

from __future__ import annotations

import os
from pathlib import Path

from config.settings import load
from pipeline.store.factory import open_store
from tests.e2e.commands import t2m


def test_it_says_what_would_go_before_it_goes(tmp_path: Path):
    store = open_store(load(data_dir=tmp_path))
    store.create("incoming/0123", b"half a file")
    (piece,) = tmp_path.rglob("0123")
    os.utime(piece, (0, 0))
    planned = t2m("sweep", "--data", tmp_path, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.splitlines() == [
        "Would remove blobs that nothing has referred to for 24 hours: 0 (0 bytes)",
        "Would remove objects of uploads that were broken off: 1",
        "Blobs that nothing refers to, for less than that: 0",
        "Expired, and removed by a gateway within a minute: jobs 0, files 0",
    ]
    assert store.head("incoming/0123") is not None
    done = t2m("sweep", "--data", tmp_path)
    assert done.stdout.startswith("Removed blobs")
    assert store.head("incoming/0123") is None
