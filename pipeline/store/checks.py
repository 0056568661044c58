"""What every store checks alike: keys, and whether conditional writes are honoured."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

from pipeline.errors import AlreadyExists, InvalidKey, PreconditionFailed, StoreUnfit
from pipeline.store.base import ObjectStore

MAX_KEY_BYTES = 1024
"""S3's limit."""
MAX_NAME_BYTES = 255
"""Longest name of one file on Linux; keys are paths in the local store."""
PLAIN_NAME = re.compile(r"[^\x00-\x1f\x7f\\/]+")
PROBE_WRITERS = 4
"""Enough to meet in a store that checks first and writes then."""


def check_key(key: str) -> str:
    """Return `key` unchanged if every store can hold it.

    Raises:
        InvalidKey: it is empty, longer than 1024 bytes, absolute, has an empty, "." or ".." component, one longer than
            255 bytes, a backslash or a control character.
    """
    try:
        too_long = len(key.encode()) > MAX_KEY_BYTES or any(len(n.encode()) > MAX_NAME_BYTES for n in key.split("/"))
    except UnicodeEncodeError:
        raise InvalidKey("An object's key is not valid Unicode.") from None
    if too_long or not all(PLAIN_NAME.fullmatch(name) and name not in (".", "..") for name in key.split("/")):
        raise InvalidKey(f"{key[:80]!r} cannot be the key of an object.")
    return key


def check_conditions(store: ObjectStore) -> None:
    """Write, overwrite and race on probe objects of their own, and remove them.

    Raises:
        StoreUnfit: a condition was ignored.
        StoreError: the store cannot be used at all.
    """
    for check in (_check_create, _check_replace, _check_races):
        key = f"probe/{uuid4().hex}"
        try:
            check(store, key)
        finally:
            store.delete(key)


def _check_create(store: ObjectStore, key: str) -> None:
    store.create(key, b"first")
    if _succeeds(lambda: store.create(key, b"second")) or store.get(key)[0] != b"first":
        raise _unfit("overwrites an object in spite of `If-None-Match: *`")


def _check_replace(store: ObjectStore, key: str) -> None:
    if _succeeds(lambda: store.replace(key, b"nothing", "0" * 32)):
        raise _unfit("replaces an object that does not exist in spite of `If-Match`")
    stale = store.create(key, b"first")
    store.replace(key, b"second", stale)
    if _succeeds(lambda: store.replace(key, b"third", stale)) or store.get(key)[0] != b"second":
        raise _unfit("replaces a changed object in spite of `If-Match`")


def _check_races(store: ObjectStore, key: str) -> None:
    if _winners(lambda n: store.create(key, b"%d" % n)) != 1:
        raise _unfit("lets several writers create the same object at once")
    etag = store.get(key)[1]
    if _winners(lambda n: store.replace(key, b"again %d" % n, etag)) != 1:
        raise _unfit("lets several writers replace the same version of an object at once")


def _winners(write: Callable[[int], object]) -> int:
    with ThreadPoolExecutor(PROBE_WRITERS) as pool:
        return sum(pool.map(lambda n: _succeeds(lambda: write(n)), range(PROBE_WRITERS)))


def _succeeds(write: Callable[[], object]) -> bool:
    try:
        write()
    except (AlreadyExists, PreconditionFailed):
        return False
    return True


def _unfit(fault: str) -> StoreUnfit:
    return StoreUnfit(
        f"The object store {fault}; jobs would be corrupted on it.",
        remedy="Use a store with conditional writes: AWS S3, SeaweedFS, Ceph, or a local folder.",
    )
