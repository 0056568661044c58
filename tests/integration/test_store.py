"""One contract for both object stores, the local folder and a real S3 server."""

from __future__ import annotations

import hashlib
import os
import shutil
import string
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
import urllib3
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from pipeline.errors import AlreadyExists, InvalidKey, ObjectCorrupt, ObjectMissing, PreconditionFailed, StoreError
from pipeline.store.base import ObjectStore
from pipeline.store.factory import open_store
from pipeline.store.local import PIECE, FileStore
from pipeline.vocabulary import ArtifactRef

WRITERS = 16


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, t2m_settings) -> ObjectStore:
    return open_store(t2m_settings(*(["s3"] if request.param == "s3" else [])))


def race(write: Callable[[int], object]) -> list[int]:
    """Let 16 threads write at once; the numbers of those that succeeded."""
    start = threading.Barrier(WRITERS)

    def run(n: int) -> bool:
        start.wait()
        try:
            write(n)
        except (AlreadyExists, PreconditionFailed):
            return False
        return True

    with ThreadPoolExecutor(WRITERS) as pool:
        return [n for n, won in enumerate(pool.map(run, range(WRITERS))) if won]


def test_honours_conditions(store):
    store.probe()
    assert list(store.list("")) == []


def test_a_store_whose_place_is_gone_says_so(store):
    store.ping()
    if isinstance(store, FileStore):
        shutil.rmtree(store._objects.parent)
    else:
        store._bucket = "no-such-bucket"
    with pytest.raises(StoreError, match=r"missing|no bucket"):
        store.ping()


def test_create_keeps_what_is_there(store):
    etag = store.create("jobs/a/final", b"first")
    with pytest.raises(AlreadyExists):
        store.create("jobs/a/final", b"first")
    assert store.get("jobs/a/final") == (b"first", etag)


def test_replace_follows_the_etag(store):
    old = store.create("jobs/a/head", b"first")
    new = store.replace("jobs/a/head", b"second", old)
    with pytest.raises(PreconditionFailed):
        store.replace("jobs/a/head", b"third", old)
    assert store.get("jobs/a/head") == (b"second", new)
    assert new != old


def test_nothing_replaces_a_missing_object(store):
    with pytest.raises(PreconditionFailed):
        store.replace("jobs/a/head", b"", "0" * 32)
    assert store.head("jobs/a/head") is None


@pytest.mark.parametrize("same_bytes", [False, True])
def test_one_of_sixteen_creators_wins(store, same_bytes):
    for n in range(3):
        key = f"jobs/{n}/final"
        winners = race(lambda writer, key=key: store.create(key, b"" if same_bytes else b"%d" % writer))
        assert len(winners) == 1
        assert same_bytes or store.get(key)[0] == b"%d" % winners[0]


def test_one_of_sixteen_replacers_wins(store):
    for n in range(3):
        key = f"jobs/{n}/head"
        etag = store.create(key, b"old")
        winners = race(lambda writer, key=key, etag=etag: store.replace(key, b"%d" % writer, etag))
        assert len(winners) == 1
        assert store.get(key)[0] == b"%d" % winners[0]


def test_replace_chains_lose_no_update(store):
    store.create("counter", b"0")

    def add_five(_: int) -> None:
        done = 0
        while done < 5:
            value, etag = store.get("counter")
            try:
                store.replace("counter", b"%d" % (int(value) + 1), etag)
                done += 1
            except PreconditionFailed:
                continue

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(add_five, range(WRITERS)))
    assert store.get("counter")[0] == b"%d" % (5 * WRITERS)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (8 << 20) + 1, (20 << 20) + 7], ids=lambda size: f"{size}B")
def test_blobs_come_back_whole(store, tmp_path, size):
    source, target = tmp_path / "source", tmp_path / "made" / "target"
    source.write_bytes(os.urandom(size))
    ref = store.put_file(source, "1080p.mp4", "video/mp4")
    assert ref.digest == "sha256:" + hashlib.sha256(source.read_bytes()).hexdigest()
    assert (ref.name, ref.size, ref.media_type) == ("1080p.mp4", size, "video/mp4")
    store.fetch(ref, target)
    assert target.read_bytes() == source.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["target"]
    assert b"".join(store.read(ref.key)) == source.read_bytes()


def test_a_blob_worth_asking_for_is_stored_once(store, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(bytes(PIECE + 1))
    first = store.put_file(source, "a", "text/plain")
    before = written(store, first.key)
    second = store.put_file(source, "b", "text/plain")
    assert (first.key, written(store, second.key)) == (second.key, before)


def written(store, key):
    """What changes when the bytes are written again, but not when a folder's blob is only made to look young."""
    return store._path(key).stat().st_ino if isinstance(store, FileStore) else store.head(key)


def test_a_wrong_digest_leaves_no_file(store, tmp_path):
    store.create("blobs/sha256/00/wrong", b"other bytes")
    ref = ArtifactRef(
        name="a", digest="sha256:" + "0" * 64, key="blobs/sha256/00/wrong", size=11, media_type="text/plain"
    )
    with pytest.raises(ObjectCorrupt):
        store.fetch(ref, tmp_path / "out" / "a")
    assert list((tmp_path / "out").iterdir()) == []


def test_missing_objects(store, tmp_path):
    ref = ArtifactRef(name="a", digest="sha256:" + "0" * 64, key="blobs/x", size=1, media_type="text/plain")
    assert store.head("blobs/x") is None
    for use in (lambda: store.get("blobs/x"), lambda: store.read("blobs/x"), lambda: store.fetch(ref, tmp_path / "a")):
        with pytest.raises(ObjectMissing):
            use()
    store.delete("blobs/x")


@pytest.mark.parametrize("start,length", [(0, 0), (0, 3), (3, None), (3, 4), (9, 10), (10, 1), (50, 1), (50, None)])
def test_ranges_read_as_slices(store, start, length):
    store.create("digits", b"0123456789")
    end = None if length is None else start + length
    assert b"".join(store.read("digits", start, length)) == b"0123456789"[start:end]


def test_pieces_are_small(store, tmp_path):
    (tmp_path / "a").write_bytes(bytes(5 << 20))
    ref = store.put_file(tmp_path / "a", "a", "text/plain")
    assert max(map(len, store.read(ref.key))) <= 1 << 20


def test_list_is_by_prefix(store):
    written = ["a-b", "a.c/x", "a/b/c", "a/d", "ab", "b"]
    for key in reversed(written):
        store.create(key, key.encode())
    found = sorted(store.list(""), key=lambda info: info.key)
    assert [info.key for info in found] == written
    assert [info.key for info in store.list("a/")] == ["a/b/c", "a/d"]
    assert sorted(info.key for info in store.list("a")) == written[:-1]
    assert list(store.list("c")) == []
    for info in found:
        head = store.head(info.key)
        assert (head.etag, head.size, int(head.modified_at)) == (info.etag, info.size, int(info.modified_at))


def test_delete_removes(store):
    store.create("jobs/a/final", b"")
    store.delete("jobs/a/final")
    assert store.head("jobs/a/final") is None
    store.create("jobs/a/final", b"again")


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../../b", ".", "a\\b", "a\0b", "a\nb", "x" * 1025])
def test_strange_keys_are_refused(store, key):
    for use in (lambda: store.create(key, b""), lambda: store.get(key), lambda: store.head(key)):
        with pytest.raises(InvalidKey):
            use()


def test_objects_can_be_served_directly(store):
    store.create("jobs/a b/ü+%.json", b"0123456789")
    if path := store.local_path("jobs/a b/ü+%.json"):
        assert store.url_for("jobs/a b/ü+%.json") is None
        assert path.read_bytes() == b"0123456789"
    else:
        url = store.url_for("jobs/a b/ü+%.json", expires_s=60)
        response = urllib3.request("GET", url, headers={"Range": "bytes=2-4"})
        assert (response.status, response.data) == (206, b"234")


class StoreMachine(RuleBasedStateMachine):
    """Whatever the order of calls, a store does what a dictionary with versions does."""

    store: ObjectStore
    names = st.sampled_from(["x", "y/z", "y/ü"])
    some_bytes = st.binary(max_size=8)

    @initialize()
    def start(self) -> None:
        self.prefix = uuid4().hex
        self.model: dict[str, tuple[bytes, str]] = {}
        self.stale: dict[str, str] = {}

    @rule(name=names, data=some_bytes)
    def create(self, name: str, data: bytes) -> None:
        if name in self.model:
            with pytest.raises(AlreadyExists):
                self.store.create(f"{self.prefix}/{name}", data)
        else:
            self.model[name] = data, self.store.create(f"{self.prefix}/{name}", data)

    @rule(name=names, data=some_bytes)
    def replace(self, name: str, data: bytes) -> None:
        if name in self.model:
            self.stale[name] = etag = self.model[name][1]
            self.model[name] = data, self.store.replace(f"{self.prefix}/{name}", data, etag)
        else:
            with pytest.raises(PreconditionFailed):
                self.store.replace(f"{self.prefix}/{name}", data, "0")

    @rule(name=names, data=some_bytes)
    def replace_stale(self, name: str, data: bytes) -> None:
        etag = self.stale.get(name, "0")
        if self.model.get(name, (b"", ""))[1] != etag:  # the same bytes may have the same etag
            with pytest.raises(PreconditionFailed):
                self.store.replace(f"{self.prefix}/{name}", data, etag)

    @rule(name=names)
    def delete(self, name: str) -> None:
        self.store.delete(f"{self.prefix}/{name}")
        self.model.pop(name, None)

    @rule()
    def compare(self) -> None:
        found = {info.key.partition("/")[2]: info.etag for info in self.store.list(f"{self.prefix}/")}
        assert found == {name: etag for name, (_, etag) in self.model.items()}
        for name, expected in self.model.items():
            assert self.store.get(f"{self.prefix}/{name}") == expected


def test_behaves_like_a_dictionary(store):
    machine = type("Machine", (StoreMachine,), {"store": store})
    run_state_machine_as_test(machine, settings=settings(max_examples=15, stateful_step_count=15, deadline=None))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.text(string.printable + "äß€😀", min_size=1, max_size=30), min_size=1, max_size=4))
def test_any_accepted_key_can_be_used(store, names):
    key = f"{uuid4().hex}/" + "/".join(names)
    try:
        etag = store.create(key, b"data")
    except InvalidKey:
        assume(False)
    assert store.get(key) == (b"data", etag)
    assert [info.key for info in store.list(key)] == [key]
    store.delete(key)


def test_two_stores_on_one_place_agree(store, t2m_settings, tmp_path: Path):
    """What one process writes, another sees: nothing is cached."""
    servers = [] if store.url_for("x") is None else ["s3"]
    other = open_store(t2m_settings(*servers))
    etag = store.create("a", b"1")
    assert other.get("a") == (b"1", etag)
    other.replace("a", b"2", etag)
    assert store.get("a")[0] == b"2"


def receive(store, pieces: list[bytes]):
    incoming = store.receive()
    for piece in pieces:
        incoming.write(piece)
    return incoming, incoming.finish()


@pytest.mark.parametrize("size", [1, PIECE - 1, 3 * PIECE, 17 * PIECE + 5, 70 * PIECE])
def test_what_arrives_in_pieces_becomes_a_blob(store, size: int):
    data = os.urandom(size)
    incoming, (digest, counted) = receive(store, [data[n : n + PIECE] for n in range(0, size, PIECE)])
    assert (digest, counted) == (f"sha256:{hashlib.sha256(data).hexdigest()}", size)
    assert list(store.list("blobs/")) == []
    ref = incoming.publish("a", "text/plain")
    incoming.discard()
    assert b"".join(store.read(ref.key)) == data
    assert [info.key for info in store.list("")] == [ref.key]


def test_what_arrives_twice_is_one_blob(store):
    refs = []
    for _ in range(2):
        incoming, _ = receive(store, [b"same", b"bytes"])
        refs.append(incoming.publish("a", "text/plain"))
        incoming.discard()
    assert refs[0] == refs[1]
    assert [info.key for info in store.list("")] == [refs[0].key]


@pytest.mark.parametrize("pieces", [0, 1, 20])
def test_what_is_discarded_leaves_nothing(store, pieces: int):
    incoming = store.receive()
    for _ in range(pieces):
        incoming.write(bytes(PIECE))
    incoming.discard()
    incoming.discard()
    assert list(store.list("")) == []


def test_only_what_nobody_wrote_lately_is_removed_as_old(store, tmp_path: Path):
    path = tmp_path / "a"
    path.write_bytes(b"data")
    ref = store.put_file(path, "a", "text/plain")
    written = store.head(ref.key).modified_at
    assert not store.remove_old(ref.key, written)
    assert store.remove_old(ref.key, written + 1)
    assert store.head(ref.key) is None
    assert store.remove_old(ref.key, written), "gone already"


def test_storing_the_same_bytes_again_keeps_them_from_being_removed_as_old(store, tmp_path: Path):
    path = tmp_path / "a"
    path.write_bytes(b"data")
    key = store.put_file(path, "a", "text/plain").key
    before = store.head(key).modified_at
    time.sleep(1.1)  # S3 tells whole seconds
    store.put_file(path, "a", "text/plain")
    assert not store.remove_old(key, before + 1)
