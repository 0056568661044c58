"""`t2m models`: pull, verify and list weights, locally and in a store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rich.table import Table

from cli import console
from config.catalogue import Catalogue, ModelEntry
from config.errors import ConfigError
from config.settings import Settings, load
from models import weights
from models.errors import ModelError, WeightsUnavailable

if TYPE_CHECKING:
    from minio import Minio


class S3Weights:
    """A `WeightsStore` on `s3://bucket/prefix` of the configured S3 server.

    Raises:
        ConfigError: `store.endpoint` is not set.
    """

    def __init__(self, settings: Settings) -> None:
        from minio import Minio

        store = settings.store
        if not store.endpoint:
            raise ConfigError("`models.weights` is an s3:// URL, but `store.endpoint` is not set.")
        place = urlsplit(settings.models.weights)
        self._bucket, self._prefix = place.netloc, place.path.strip("/")
        self._client: Minio = Minio(
            endpoint=store.endpoint,
            access_key=store.access_key.get_secret_value() or None,
            secret_key=store.secret_key.get_secret_value() or None,
            secure=store.secure,
            region=store.region,
        )

    def put(self, name: str, path: Path) -> None:
        """See `WeightsStore.put`."""
        with _reachable():
            self._client.fput_object(bucket_name=self._bucket, object_name=self._key(name), file_path=str(path))

    def get(self, name: str, path: Path) -> None:
        """See `WeightsStore.get`."""
        with _reachable():
            self._client.fget_object(bucket_name=self._bucket, object_name=self._key(name), file_path=str(path))

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name


class _reachable:  # noqa: N801 - reads as a condition
    """Translates the errors of the S3 client."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from minio.error import MinioException, S3Error
        from urllib3.exceptions import HTTPError

        if isinstance(error, S3Error) and error.code == "NoSuchKey":
            raise FileNotFoundError(error.object_name) from error
        if isinstance(error, (MinioException, HTTPError)):
            raise WeightsUnavailable(
                f"The weights store does not answer: {type(error).__name__}.",
                remedy="Check `models.weights` and the `store` settings.",
            ) from error


def show() -> None:
    """The catalogue as a table."""
    settings = load()
    table = Table("model", "weights", "GiB", "GPU GiB", "licence", "purpose", box=None, pad_edge=False)
    for row in weights.listing(Catalogue.load(settings.models.catalogue), settings.models):
        size = f"{row.size / 2**30:.2f}" if row.size else ""
        entry = row.entry
        table.add_row(entry.name, row.presence, size, f"{entry.vram_gib:g}", entry.licence, entry.purpose)
    console.out.print(table, markup=False)


def pull(names: Sequence[str]) -> None:
    """Download what is missing; copy it to the weights store if one is set.

    Raises:
        ConfigError: no name is given or one is not in the catalogue.
        ModelError: the hub or the store cannot be reached, or a file came damaged.
    """
    settings = load()
    catalogue = Catalogue.load(settings.models.catalogue)
    if not names:
        raise ConfigError("Which model?", remedy=f"Known models: {', '.join(catalogue.names)}.")
    for entry in [catalogue.get(name) for name in names]:
        folder = weights.pull(entry, settings.models)
        if _remote(settings) and entry.source != weights.BUNDLED:
            weights.upload(entry, settings.models, S3Weights(settings), told=_tell)
        console.say(f"{entry.name}: {folder}")


def verify(names: Sequence[str]) -> None:
    """Check digests of the named models, or of all whose weights are here.

    Raises:
        ModelError: the first whose weights are missing or wrong, after all were checked.
    """
    settings = load()
    catalogue = Catalogue.load(settings.models.catalogue)
    rows = weights.listing(catalogue, settings.models)
    here = [row.entry for row in rows if row.presence is not weights.Presence.MISSING]
    faults = [fault for entry in ([catalogue.get(n) for n in names] or here) if (fault := _verify(entry, settings))]
    if faults:
        raise faults[0]


def _verify(entry: ModelEntry, settings: Settings) -> ModelError | None:
    try:
        weights.check(entry, weights.folder_of(entry, settings.models))
    except ModelError as error:
        console.say(f"{entry.name}: wrong. {error}")
        return error
    console.say(f"{entry.name}: right")
    return None


def fetch(names: Sequence[str], catalogue: Catalogue, settings: Settings) -> None:
    """Copy the weights of `names` from the weights store, if one is set, to this machine's cache.

    Raises:
        ConfigError, ModelError: see `models.weights.fetch`.
    """
    if not _remote(settings):
        return
    for name in set(names) & set(catalogue.names):
        weights.fetch(catalogue.get(name), settings.models, S3Weights(settings), told=_tell)


def _remote(settings: Settings) -> bool:
    return settings.models.weights.startswith("s3://")


def _tell(name: str, size: int) -> None:
    console.note(f"{name}: {size / 2**20:.0f} MiB")
