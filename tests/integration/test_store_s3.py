"""What can go wrong between T2M and an S3 server, made to happen before a real one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from config.errors import ConfigError
from config.settings import StoreSettings
from pipeline.errors import AlreadyExists, PreconditionFailed, StoreError, StoreUnfit
from pipeline.store.s3 import S3Store
from tests.integration.faulty_s3 import Faults, faulty_proxy, unfit_server
from tests.local_http import serving


def open_at(endpoint: str, bucket: str, access_key: str = "key", secret_key: str = "secret") -> S3Store:
    return S3Store(endpoint, access_key, secret_key, bucket, secure=False, region="us-east-1")


@pytest.fixture
def store(s3, s3_bucket) -> S3Store:
    return open_at(s3.endpoint, s3_bucket, s3.access_key, s3.secret_key)


@pytest.fixture
def behind(s3, s3_bucket) -> Iterator[tuple[S3Store, Faults]]:
    """The same bucket, seen through a proxy that makes faults."""
    with faulty_proxy(s3.endpoint) as (endpoint, faults):
        yield open_at(endpoint, s3_bucket, s3.access_key, s3.secret_key), faults


@pytest.mark.parametrize("lost", [1, 3])
def test_a_create_whose_answer_was_lost_has_won(behind, store, lost):
    proxied, faults = behind
    faults.lost_answers = lost
    etag = proxied.create("jobs/a/final", b"mine")
    assert store.get("jobs/a/final") == (b"mine", etag)
    assert faults.lost_answers == 0


@pytest.mark.parametrize("data", [b"theirs", b"mine"])
def test_a_create_that_lost_stays_lost_whatever_its_bytes(behind, store, data):
    proxied, faults = behind
    etag = store.create("jobs/a/final", data)
    faults.lost_answers = 1
    with pytest.raises(AlreadyExists):
        proxied.create("jobs/a/final", b"mine")
    assert store.get("jobs/a/final") == (data, etag)


def test_a_replace_whose_answer_was_lost_has_won(behind, store):
    proxied, faults = behind
    etag = store.create("head", b"old")
    faults.lost_answers = 1
    assert store.get("head")[1] == etag
    new = proxied.replace("head", b"mine", etag)
    assert store.get("head") == (b"mine", new)


def test_a_replace_that_lost_stays_lost(behind, store):
    proxied, faults = behind
    old = store.create("head", b"old")
    store.replace("head", b"mine", old)
    faults.lost_answers = 1
    with pytest.raises(PreconditionFailed):
        proxied.replace("head", b"mine", old)


def test_a_dropped_condition_is_refused_not_forgotten(behind, store):
    """The condition is signed: a proxy that strips it cannot turn a create into an overwrite."""
    proxied, faults = behind
    store.create("jobs/a/final", b"theirs")
    faults.dropped_conditions = 1
    with pytest.raises(StoreError, match="SignatureDoesNotMatch"):
        proxied.create("jobs/a/final", b"mine")
    assert store.get("jobs/a/final")[0] == b"theirs"


def test_a_busy_server_is_asked_again(behind):
    proxied, faults = behind
    for use in (
        lambda: proxied.create("a", b"data"),
        lambda: proxied.head("a"),
        lambda: proxied.get("a"),
        lambda: list(proxied.list("a")),
        lambda: proxied.delete("a"),
    ):
        faults.busy = 2
        use()
        assert faults.busy == 0
    assert proxied.head("a") is None


def test_a_broken_download_goes_on_where_it_broke(behind, tmp_path):
    proxied, faults = behind
    (tmp_path / "source").write_bytes(os.urandom(4 << 20))
    ref = proxied.put_file(tmp_path / "source", "a", "text/plain")
    faults.half_bodies = 2
    proxied.fetch(ref, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == (tmp_path / "source").read_bytes()
    assert [wanted for method, wanted in faults.requests if method == "GET"] == [
        None,
        f"bytes={2 << 20}-",
        f"bytes={3 << 20}-",
    ]


def test_a_download_that_never_ends_well_leaves_no_file(behind, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.store.s3.PAUSES_S", (0.01, 0.01))
    proxied, faults = behind
    (tmp_path / "source").write_bytes(os.urandom(1 << 20))
    ref = proxied.put_file(tmp_path / "source", "a", "text/plain")
    faults.busy = 1000
    with pytest.raises(StoreError, match="cannot be reached"):
        proxied.fetch(ref, tmp_path / "out" / "target")
    assert list((tmp_path / "out").iterdir()) == []


def test_stored_bytes_are_not_sent_again(behind, tmp_path):
    proxied, faults = behind
    (tmp_path / "source").write_bytes(bytes(2 << 20))  # of less it is cheaper to send them than to ask
    proxied.put_file(tmp_path / "source", "a", "text/plain")
    faults.requests.clear()
    proxied.put_file(tmp_path / "source", "b", "text/plain")
    assert faults.requests == [("HEAD", None)]


def test_a_broken_upload_is_repeated(behind, store, tmp_path):
    proxied, faults = behind
    (tmp_path / "source").write_bytes(os.urandom(10 << 20))
    faults.busy, faults.lost_answers = 1, 1
    ref = proxied.put_file(tmp_path / "source", "a", "text/plain")
    store.fetch(ref, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == (tmp_path / "source").read_bytes()


def test_a_server_that_is_down_is_an_error_of_one_line(s3, store, tmp_path, monkeypatch):
    store.create("a", b"")
    s3.kill()
    try:
        for use in (
            lambda: store.create("b", b""),
            lambda: store.get("a"),
            lambda: store.head("a"),
            lambda: list(store.list("")),
            lambda: store.delete("a"),
        ):
            with pytest.raises(StoreError, match="cannot be reached") as refused:
                use()
            assert "\n" not in str(refused.value)
            assert "`store.endpoint`" in refused.value.remedy
    finally:
        s3.start()
    assert store.get("a")[0] == b""


def test_wrong_keys_and_buckets_are_named(s3, s3_bucket):
    wrong_secret = open_at(s3.endpoint, s3_bucket, s3.access_key, "wrong")
    wrong_access = open_at(s3.endpoint, s3_bucket, "nobody", s3.secret_key)
    no_bucket = open_at(s3.endpoint, "no-such-bucket", s3.access_key, s3.secret_key)
    for store, named in (
        (wrong_secret, r"SignatureDoesNotMatch.*`store\.secret_key`"),
        (wrong_access, r"InvalidAccessKeyId.*`store\.access_key`"),
        (no_bucket, r"NoSuchBucket.*`store\.bucket`"),
    ):
        with pytest.raises(StoreError, match=named) as refused:
            store.probe()
        assert "wrong" not in str(refused.value)


@pytest.mark.parametrize(
    "server,said",
    [
        ({"create": "ignored"}, "overwrites an object"),
        ({"replace": "ignored"}, "replaces an object that does not exist"),
        ({"create": "racy"}, "create the same object at once"),
    ],
)
def test_a_store_that_ignores_conditions_is_refused(server, said):
    with serving(unfit_server(**server)) as endpoint, pytest.raises(StoreUnfit, match=said):
        open_at(endpoint, "bucket").probe()


def test_a_store_that_honours_conditions_is_not_refused():
    with serving(unfit_server()) as endpoint:
        open_at(endpoint, "bucket").probe()


def test_what_is_no_s3_server_is_refused(rabbitmq):
    with pytest.raises(StoreError):
        open_at(f"{rabbitmq.host}:{rabbitmq.port}", "bucket").head("a")


def test_missing_keys_are_refused():
    with pytest.raises(ConfigError, match=r"store\.access_key"):
        S3Store.open(StoreSettings(kind="s3", endpoint="localhost:8333"))
