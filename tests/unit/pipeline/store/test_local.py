"""What only the local folder has: files, locks, permissions, a disk that fills up, processes that die."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from pipeline.errors import AlreadyExists, InvalidKey, PreconditionFailed, StoreError, StoreFull
from pipeline.store.local import ABANDONED_S, FileStore

WRITERS = 16


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> FileStore:
    return FileStore(root)


def files(root: Path) -> list[str]:
    """All files but the locks, which stay."""
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file() and p.parent.name != "locks")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes: the kernel fails the write, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may write anywhere, so not as root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_no_room_leaves_what_was_there(store, root, tmp_path):
    (tmp_path / "large").write_bytes(bytes(100_000))
    etag = store.create("head", b"old")
    with largest_file(50_000):
        for write in (
            lambda: store.create("new", bytes(100_000)),
            lambda: store.replace("head", bytes(100_000), etag),
            lambda: store.put_file(tmp_path / "large", "large", "text/plain"),
        ):
            with pytest.raises(StoreFull) as full:
                write()
            assert "space" in full.value.remedy
            assert "\n" not in str(full.value)
    assert store.get("head") == (b"old", etag)
    assert files(root) == ["objects/head"]


def test_no_room_for_a_download_leaves_no_file(store, tmp_path):
    (tmp_path / "large").write_bytes(bytes(100_000))
    ref = store.put_file(tmp_path / "large", "large", "text/plain")
    with largest_file(50_000), pytest.raises(StoreFull):
        store.fetch(ref, tmp_path / "out" / "large")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_unwritable_folder_is_named(store, root):
    root.chmod(0o500)
    with as_nobody():
        for use in (lambda: FileStore(root / "deeper"), lambda: store.create("a", b"")):
            with pytest.raises(StoreError, match="Give this user write permission") as refused:
                use()
            assert str(root) in str(refused.value)


def test_no_key_leads_out_of_the_store(store, root, tmp_path):
    (tmp_path / "secret").write_text("secret")
    for key in ("../secret", "a/../../secret", str(tmp_path / "secret"), "..\\secret"):
        for use in (store.get, store.head, store.read, store.delete, store.local_path, lambda k: store.create(k, b"")):
            with pytest.raises(InvalidKey):
                use(key)
    with pytest.raises(InvalidKey):
        list(store.list("../../"))
    assert (tmp_path / "secret").read_text() == "secret"


def test_every_write_changes_the_etag(store):
    """Even the same bytes, in the same nanosecond or tick of the file system's clock."""
    etags = [store.create("a", b"same")]
    for _ in range(200):
        etags.append(store.replace("a", b"same", etags[-1]))
    assert len(set(etags)) == len(etags)


def test_the_caller_may_go_on_writing_to_its_file(store, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"first")
    ref = store.put_file(source, "a", "text/plain")
    with source.open("r+b") as file:
        file.write(b"other")
    store.fetch(ref, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"first"


def test_deleting_leaves_no_empty_folders(store, root):
    store.create("jobs/a/final", b"")
    store.create("jobs/b/final", b"")
    store.delete("jobs/a/final")
    assert [path.name for path in (root / "objects" / "jobs").iterdir()] == ["b"]


def test_what_a_dead_process_left_is_removed_after_a_day(store, root):
    old, young = root / "incoming" / "old", root / "incoming" / "young"
    for path in (old, young):
        path.touch()
    os.utime(old, (time.time() - ABANDONED_S - 60,) * 2)
    FileStore(root)
    assert files(root) == ["incoming/young"]


def test_a_killed_writer_leaves_no_partial_blob(root, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(64 << 20))
    code = "import sys; from pathlib import Path; from pipeline.store.local import FileStore as F\n"
    code += "s = F(Path(sys.argv[1])); print(flush=True); s.put_file(Path(sys.argv[2]), 'a', 'a/b')"
    with subprocess.Popen([sys.executable, "-c", code, root, source], stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        while not files(root):
            time.sleep(0.001)
        writer.send_signal(signal.SIGKILL)
    store = FileStore(root)
    assert [info.size for info in store.list("")] in ([], [64 << 20])
    ref = store.put_file(source, "a", "a/b")
    store.fetch(ref, tmp_path / "target")


# Processes


barrier: Barrier


def enter(shared: Barrier) -> None:
    global barrier
    barrier = shared


def create_all(root: Path, writer: int) -> list[int]:
    """Numbers of the keys this process created; all processes try the same keys at the same time."""
    store, won = FileStore(root), []
    for n in range(20):
        barrier.wait()
        with suppress(AlreadyExists):
            store.create(f"jobs/{n}/final", b"%d" % writer)
            won.append(n)
    return won


def count_up(root: Path, writer: int) -> None:
    store, done = FileStore(root), 0
    barrier.wait()
    while done < 20:
        value, etag = store.get("counter")
        with suppress(PreconditionFailed):
            store.replace("counter", b"%d" % (int(value) + 1), etag)
            done += 1


def test_sixteen_processes_race_fairly(store, root):
    store.create("counter", b"0")
    context = multiprocessing.get_context("spawn")
    with context.Pool(WRITERS, enter, (context.Barrier(WRITERS),)) as pool:
        wins = pool.starmap(create_all, [(root, n) for n in range(WRITERS)], chunksize=1)
        pool.starmap(count_up, [(root, n) for n in range(WRITERS)], chunksize=1)
    assert sorted(n for won in wins for n in won) == list(range(20))
    for writer, won in enumerate(wins):
        assert all(store.get(f"jobs/{n}/final")[0] == b"%d" % writer for n in won)
    assert store.get("counter")[0] == b"%d" % (20 * WRITERS)
    assert {info.key for info in store.list("")} == {"counter", *(f"jobs/{n}/final" for n in range(20))}
    assert not list((root / "incoming").iterdir())
