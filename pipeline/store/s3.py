"""Objects on any S3 server that honours conditional writes, by the MinIO SDK.

The SDK's public `put_object` cannot send conditions, so the two conditional writes are requests of our own, signed by
the SDK's signer and sent by urllib3, which the SDK sends with, too. The condition is among the signed headers: a proxy
that drops it breaks the signature, and the write is refused instead of done without its condition.

Each conditional write carries a token as object metadata. When an answer was lost and the repetition is refused, the
token tells whether the object there is this very write or one by somebody else, even with the same bytes.

Uploads that die half-way leave parts behind, which S3 removes by a lifecycle rule (AbortIncompleteMultipartUpload).
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import SplitResult, quote, urlsplit, urlunsplit
from uuid import uuid4
from xml.etree.ElementTree import ParseError

import urllib3
from minio import Minio
from minio.commonconfig import ComposeSource, CopySource
from minio.credentials import Credentials
from minio.error import MinioException, S3Error, ServerError
from minio.signer import sign_v4_s3
from urllib3.exceptions import HTTPError, MaxRetryError

from config.errors import ConfigError
from config.settings import StoreSettings
from pipeline import keys
from pipeline.errors import (
    AlreadyExists,
    ObjectMissing,
    PipelineError,
    PreconditionFailed,
    StoreError,
    StoreFull,
)
from pipeline.store.arriving import Arriving
from pipeline.store.base import Incoming, ObjectInfo
from pipeline.store.checks import check_conditions, check_key
from pipeline.store.local import PIECE, digest_of, save
from pipeline.vocabulary import ArtifactRef

CONNECT_S, READ_S = 3.0, 30.0
"""Longest wait for a connection, and for the next bytes of an answer."""
PAUSES_S = (0.1, 0.3, 0.9, 2.7)
"""Between the five tries of a request, each varied by half so that many clients do not come back at once."""
CONNECTIONS = 32
"""Kept open: more than the threads of a worker child, each with three parallel uploads."""
PART_BYTES = 8 << 20
"""Size of the parts of a multipart upload; the SDK holds up to seven in memory."""
COPIED_BYTES = 64 << 20
"""Copied by the server in one request, so that each is answered well within `READ_S`."""
RELIABLE_S = 6 * 3600.0
"""A blob written this long ago is sent again rather than relied upon: a sweep might be about to remove it. Well under
the shortest grace a deployment can set (`files.sweep_grace_hours`)."""
BUSY = {500, 502, 503, 504}
T = TypeVar("T")
WRITE_MARK = "x-amz-meta-t2m-write"

MISSING_CODES = {"NoSuchKey", "NoSuchObject", "ResourceNotFound"}
FULL_CODES = {"InsufficientStorage", "XMinioStorageFull", "QuotaExceeded", "EntityTooLarge"}
REMEDIES = {
    "NoSuchBucket": "Create the bucket, or correct `store.bucket`.",
    "SignatureDoesNotMatch": "Check `store.secret_key`.",
    "InvalidAccessKeyId": "Check `store.access_key`.",
    "AccessDenied": "Allow these keys to read, write, list and delete in `store.bucket`.",
    "RequestTimeTooSkewed": "Set this machine's clock.",
    "AuthorizationHeaderMalformed": "Check `store.region`.",
    "PermanentRedirect": "Check `store.region` and `store.endpoint`.",
}


class S3Store:
    """An `ObjectStore` in one bucket of an S3 server. Thread-safe; keeps up to 32 connections.

    Args:
        endpoint: host:port.
        secure: speak TLS.
        region: as the server knows it; given, it need not be asked for.
    """

    def __init__(
        self, endpoint: str, access_key: str, secret_key: str, bucket: str, *, secure: bool = True, region: str
    ) -> None:
        self._http = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
            maxsize=CONNECTIONS,
            retries=urllib3.Retry(
                total=len(PAUSES_S), backoff_factor=PAUSES_S[0], backoff_jitter=PAUSES_S[0], status_forcelist=BUSY
            ),
        )
        self._client = Minio(endpoint, access_key, secret_key, secure=secure, region=region, http_client=self._http)
        self._credentials = Credentials(access_key, secret_key)
        self._endpoint, self._bucket, self._region = endpoint, bucket, region

    @classmethod
    def open(cls, settings: StoreSettings) -> S3Store:
        """The store that the settings describe; connects with the first call.

        Raises:
            ConfigError: the endpoint or a key is missing.
        """
        secrets = settings.access_key.get_secret_value(), settings.secret_key.get_secret_value()
        if not (settings.endpoint and all(secrets)):
            raise ConfigError("`store.endpoint`, `store.access_key` and `store.secret_key` must be set for S3.")
        try:
            return cls(settings.endpoint, *secrets, settings.bucket, secure=settings.secure, region=settings.region)
        except ValueError as error:
            raise ConfigError(f"`store.endpoint` must be host:port: {error}.") from error

    def create(self, key: str, data: bytes, media_type: str = "application/json") -> str:
        """See `ObjectStore.create`."""
        lost = AlreadyExists(f"There is already an object {key}.")
        return self._write(key, data, {"If-None-Match": "*", "Content-Type": media_type}, lost)

    def replace(self, key: str, data: bytes, etag: str, media_type: str = "application/json") -> str:
        """See `ObjectStore.replace`."""
        lost = PreconditionFailed(f"The object {key} has changed.")
        return self._write(key, data, {"If-Match": f'"{etag}"', "Content-Type": media_type}, lost)

    def get(self, key: str) -> tuple[bytes, str]:
        """See `ObjectStore.get`."""

        def read() -> tuple[bytes, str]:
            with self._opened(key) as response:
                return response.read(), response.headers["etag"].strip('"')

        with self._translated(key):
            return _persist(read)

    def head(self, key: str) -> ObjectInfo | None:
        """See `ObjectStore.head`."""
        try:
            with self._translated(key):
                found = self._client.stat_object(self._bucket, check_key(key))
        except ObjectMissing:
            return None
        return ObjectInfo(key, found.etag, found.size, found.last_modified.timestamp())

    def put_file(self, path: Path, name: str, media_type: str) -> ArtifactRef:
        """See `ObjectStore.put_file`. The server checks each part against a digest that is sent along."""
        put = self._put_small if path.stat().st_size <= PIECE else self._put_large
        digest, size = put(path, media_type)
        return ArtifactRef(name=name, digest=digest, key=keys.blob(digest), size=size, media_type=media_type)

    def _put_small(self, path: Path, media_type: str) -> tuple[str, int]:
        """Read once and sent in one request: asking whether it is there takes as long."""
        data = path.read_bytes()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        with self._translated(key := keys.blob(digest)):
            _persist(lambda: self._send_whole(key, data, media_type))
        return digest, len(data)

    def _put_large(self, path: Path, media_type: str) -> tuple[str, int]:
        digest, size = digest_of(path)
        with self._translated(key := keys.blob(digest)):
            if not self._may_rely_on(key, size):
                _persist(lambda: self._upload(key, path, media_type))
        return digest, size

    def receive(self) -> Incoming:
        """See `ObjectStore.receive`. A multipart upload under a key of its own, which the server copies at the end."""
        return Arriving(f"{keys.INCOMING}{uuid4().hex}", self._send, self._place_blob, self.delete)

    def fetch(self, ref: ArtifactRef, path: Path) -> None:
        """See `ObjectStore.fetch`. A broken download goes on where it broke."""
        with self._translated(ref.key):
            save(self._resuming(ref.key), ref, path)

    def read(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See `ObjectStore.read`."""
        if length == 0:
            return iter(())
        with self._translated(key):
            try:
                response = self._get(key, start, length)
            except S3Error as error:
                if error.code == "InvalidRange":
                    return iter(())
                raise
        return self._pieces(key, response)

    def local_path(self, key: str) -> Path | None:
        """None: the objects lie on the server, see `url_for`."""
        return None

    def url_for(self, key: str, expires_s: int = 3600) -> str | None:
        """See `ObjectStore.url_for`."""
        expires = timedelta(seconds=expires_s)
        url: str = self._client.presigned_get_object(self._bucket, check_key(key), expires=expires)
        return url

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `ObjectStore.list`. Asks for a thousand at a time."""
        with self._translated(prefix):
            for found in self._client.list_objects(self._bucket, prefix=prefix, recursive=True):
                modified = found.last_modified.timestamp()
                yield ObjectInfo(found.object_name, found.etag.strip('"'), found.size, modified)

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        with self._translated(key):
            self._client.remove_object(self._bucket, check_key(key))

    def remove_old(self, key: str, written_before: float) -> bool:
        """See `ObjectStore.remove_old`. S3 has no conditional delete everywhere: a writer within the milliseconds
        between question and removal would lose, if it relied on a blob that old, which `put_file` never does.
        """
        found = self.head(key)
        if found is not None and found.modified_at >= written_before:
            return False
        self.delete(key)
        return True

    def ping(self) -> None:
        """See `ObjectStore.ping`. Whether these keys may write shows only when they do."""
        with self._translated(self._bucket):
            if not self._client.bucket_exists(self._bucket):
                raise StoreError(f"There is no bucket {self._bucket}.", remedy=REMEDIES["NoSuchBucket"])

    def probe(self) -> None:
        """See `ObjectStore.probe`. Lists first: some servers make a missing bucket with the first write."""
        next(self.list("probe/"), None)
        check_conditions(self)

    def _write(self, key: str, data: bytes, headers: dict[str, str], lost: PipelineError) -> str:
        """PUT `data` under the condition in `headers`; returns the etag, or raises `lost`."""
        token, unanswered = uuid4().hex, False

        def attempt() -> str:
            nonlocal unanswered
            try:
                response = self._put(key, data, headers | {WRITE_MARK: token})
            except HTTPError:
                unanswered = True
                raise
            if response.status == 200:
                return response.headers["etag"].strip('"')
            if not _refused(response):
                raise _server_error(response)
            if unanswered and (etag := self._etag_of_write(key, token)):
                return etag
            raise lost

        with self._translated(key):
            return _persist(attempt)

    def _put(self, key: str, data: bytes, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        """One signed PUT without repetition; raises `HTTPError` also where a repetition may help."""
        url = self._url(key)
        now, digest = datetime.now(UTC), hashlib.sha256(data).hexdigest()
        signed = sign_v4_s3(
            method="PUT",
            url=url,
            region=self._region,
            headers={
                **headers,
                "Host": url.netloc,
                "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ"),
                "x-amz-content-sha256": digest,
            },
            credentials=self._credentials,
            content_sha256=digest,
            date=now,
        )
        response = self._pool.urlopen("PUT", url.path, body=data, headers=signed, retries=False, redirect=False)
        if response.status in BUSY or response.status == 409:  # 409: AWS saw another writer at this very moment
            raise HTTPError(f"status {response.status}")
        return response

    def _url(self, key: str) -> SplitResult:
        """Where the SDK would send a request for `key`, path- or virtual-host-style."""
        return self._base._replace(path=self._base.path + quote(check_key(key)))

    @cached_property
    def _base(self) -> SplitResult:
        """URL of the bucket; presigning is how the SDK tells it, and too slow to ask for each key."""
        presigned: str = self._client.presigned_put_object(self._bucket, "k")
        url = urlsplit(presigned)
        return url._replace(path=url.path.removesuffix("k"), query="")

    @cached_property
    def _pool(self) -> urllib3.HTTPConnectionPool:
        """The connections to `_base`; asking `_http` which those are takes a tenth of a small write's CPU."""
        return self._http.connection_from_url(urlunsplit(self._base))

    def _etag_of_write(self, key: str, token: str) -> str | None:
        """The etag of the object if it is the write marked with `token`."""
        try:
            found = self._client.stat_object(self._bucket, key)
        except S3Error:
            return None
        return str(found.etag) if found.metadata.get(WRITE_MARK) == token else None

    def _send_whole(self, key: str, data: bytes, media_type: str) -> None:
        response = self._put(key, data, {"Content-Type": media_type})
        if response.status != 200:
            raise _server_error(response)

    def _upload(self, key: str, path: Path, media_type: str) -> None:
        self._client.fput_object(self._bucket, key, str(path), content_type=media_type, part_size=PART_BYTES)

    def _may_rely_on(self, key: str, size: int) -> bool:
        """Whether a blob is there, and young enough that no sweep is about to remove it."""
        stored = self.head(key)
        return stored is not None and stored.size == size and time.time() - stored.modified_at < RELIABLE_S

    def _send(self, key: str, pieces: BinaryIO) -> None:
        with self._translated(key):
            self._client.put_object(
                self._bucket, key, pieces, length=-1, part_size=PART_BYTES, num_parallel_uploads=1
            )  # one at a time: memory of two parts, while the client's next bytes gather

    def _place_blob(self, source: str, key: str, size: int) -> None:
        if not self._may_rely_on(key, size):
            parts = [
                ComposeSource(self._bucket, source, offset=start, length=min(COPIED_BYTES, size - start))
                for start in range(0, size, COPIED_BYTES)
            ]
            with self._translated(key):
                if len(parts) == 1:
                    self._client.copy_object(self._bucket, key, CopySource(self._bucket, source))
                else:
                    self._client.compose_object(self._bucket, key, parts)

    def _get(self, key: str, start: int = 0, length: int | None = None) -> urllib3.BaseHTTPResponse:
        response: urllib3.BaseHTTPResponse = self._client.get_object(
            self._bucket, check_key(key), offset=start, length=length or 0
        )
        return response

    @contextmanager
    def _opened(self, key: str, start: int = 0) -> Iterator[urllib3.BaseHTTPResponse]:
        response = self._get(key, start)
        try:
            yield response
        finally:
            response.close()
            response.release_conn()

    def _resuming(self, key: str) -> Iterator[bytes]:
        """All bytes of a blob; each break is followed by a request for the rest."""
        done, pauses = 0, iter(PAUSES_S)
        while True:
            try:
                with self._opened(key, done) as response:
                    for piece in response.stream(PIECE):
                        done += len(piece)
                        pauses = iter(PAUSES_S)
                        yield piece
                    return
            except HTTPError:
                if (pause := next(pauses, None)) is None:
                    raise
                time.sleep(pause)

    def _pieces(self, key: str, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        with self._translated(key):
            try:
                yield from response.stream(PIECE)
            finally:
                response.close()
                response.release_conn()

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        try:
            yield
        except S3Error as error:
            raise self._explain(error, key) from error
        except ServerError as error:
            kind = StoreFull if error.status_code == 507 else StoreError
            raise kind(f"The object store at {self._endpoint} fails: {error}.") from error
        except (MinioException, ValueError, ParseError) as error:
            raise StoreError(
                f"{self._endpoint} does not answer like an S3 server.", remedy="Check `store.endpoint`."
            ) from error
        except HTTPError as error:
            raise StoreError(
                f"The object store at {self._endpoint} cannot be reached.",
                remedy="Check that it runs and that `store.endpoint` and `store.secure` are right.",
            ) from error

    def _explain(self, error: S3Error, key: str) -> PipelineError:
        if error.code in MISSING_CODES:
            return ObjectMissing(f"There is no object {key}.")
        if error.code in FULL_CODES:
            return StoreFull(f"The object store at {self._endpoint} has no space left.", remedy="Free some space.")
        return StoreError(
            f"The object store at {self._endpoint} refuses: {error.code}, bucket {self._bucket}.",
            remedy=REMEDIES.get(error.code or "", ""),
        )


def _persist(action: Callable[[], T]) -> T:
    """The result of `action`, repeated after lost connections and while the server is busy."""
    for pause in PAUSES_S:
        try:
            return action()
        except MaxRetryError:  # the SDK's requests were repeated already
            raise
        except HTTPError:
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - spreads clients, hides nothing
    return action()


def _refused(response: urllib3.BaseHTTPResponse) -> bool:
    """True if the condition did not hold; `If-Match` on a missing object is 404 on some servers."""
    return response.status == 412 or (response.status == 404 and _server_error(response).code in MISSING_CODES)


def _server_error(response: urllib3.BaseHTTPResponse) -> S3Error:
    if response.data.lstrip().startswith(b"<"):
        return S3Error.fromxml(response)
    raise ServerError(f"server failed with HTTP status code {response.status}", response.status)
