"""`probe` against stores that break one promise each."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import StoreUnfit
from pipeline.store.checks import check_conditions
from pipeline.store.local import FileStore


class Overwrites(FileStore):
    def create(self, key: str, data: bytes, media_type: str = "application/json") -> str:
        self.delete(key)
        return super().create(key, data, media_type)


class ReplacesBlindly(FileStore):
    def replace(self, key: str, data: bytes, etag: str, media_type: str = "application/json") -> str:
        self.delete(key)
        return self.create(key, data, media_type)


class ReplacesStale(FileStore):
    def replace(self, key: str, data: bytes, etag: str, media_type: str = "application/json") -> str:
        info = self.head(key)
        return super().replace(key, data, info.etag if info else etag, media_type)


@pytest.mark.parametrize(
    "kind,fault",
    [
        (Overwrites, "overwrites an object"),
        (ReplacesBlindly, "replaces an object that does not exist"),
        (ReplacesStale, "replaces a changed object"),
    ],
)
def test_a_broken_promise_is_named(kind: type[FileStore], fault: str, tmp_path: Path):
    store = kind(tmp_path)
    with pytest.raises(StoreUnfit, match=fault):
        check_conditions(store)
    assert list(store.list("")) == []


def test_a_fit_store_passes_and_is_left_empty(tmp_path: Path):
    store = FileStore(tmp_path)
    store.probe()
    assert list(store.list("")) == []
