"""The store the settings ask for."""

from __future__ import annotations

from config.settings import Settings
from pipeline.store.base import ObjectStore
from pipeline.store.local import FileStore


def open_store(settings: Settings) -> ObjectStore:
    """The object store of `settings.store`; not probed.

    Raises:
        StoreError: the local folder cannot be made.
        ConfigError: `store.endpoint` or the keys of an S3 store are missing.
    """
    if settings.store.kind == "s3":
        from pipeline.store.s3 import S3Store  # the SDK takes 0.2 s to import

        return S3Store.open(settings.store)
    return FileStore(settings.data_dir / "store")
