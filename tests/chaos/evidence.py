"""Reads what is left after a run: the store, the database and the client's record. Uses nothing of the product.

A checker that shared the product's code would share its mistakes; so keys and columns are named here once more.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from minio import Minio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from tests.chaos.record import lines

Row = Mapping[str, Any]


class Objects(Protocol):
    """The store, read only."""

    def sizes(self) -> dict[str, int]:
        """Bytes of every object by its key."""

    def read(self, key: str) -> bytes:
        """An object."""


class Folder:
    """A store in a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root / "objects"

    def sizes(self) -> dict[str, int]:
        return {str(p.relative_to(self._root)): p.stat().st_size for p in self._root.rglob("*") if p.is_file()}

    def read(self, key: str) -> bytes:
        return (self._root / key).read_bytes()


class Bucket:
    """A bucket of an S3 server, from s3://access:secret@host:port/bucket."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self._bucket = where.path.strip("/")
        self._client = Minio(f"{where.hostname}:{where.port}", where.username, where.password, secure=False)

    def sizes(self) -> dict[str, int]:
        found = self._client.list_objects(bucket_name=self._bucket, recursive=True)
        return {one.object_name: one.size for one in found if not one.is_dir}

    def read(self, key: str) -> bytes:
        answer = self._client.get_object(bucket_name=self._bucket, object_name=key)
        try:
            return bytes(answer.read())
        finally:
            answer.close()
            answer.release_conn()


def open_objects(where: str) -> Objects:
    """An s3:// URL or a folder."""
    return Bucket(where) if where.startswith("s3://") else Folder(Path(where))


@dataclass
class Rows:
    """The tables that tell of jobs."""

    jobs: dict[str, Row] = field(default_factory=dict)
    log: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))
    artifacts: dict[str, dict[str, Row]] = field(default_factory=lambda: defaultdict(dict))
    deliveries: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))


QUERIES = {
    "jobs": "SELECT id, status, position, progress, seq, failure FROM jobs",
    "log": "SELECT job_id, seq, progress, event_id, kind, stage, epoch, hop, n FROM events ORDER BY job_id, seq",
    "artifacts": "SELECT job_id, name, digest, key, size FROM artifacts",
    "deliveries": "SELECT job_id, message_id, webhook_id, rank, event, status FROM deliveries WHERE job_id IS NOT NULL",
}


async def read_rows(url: str) -> Rows:
    """Everything of a database, by its SQLAlchemy URL."""
    engine = create_async_engine(url)
    try:
        async with engine.connect() as connection:
            return Rows(
                jobs={row["id"]: row for row in await _all(connection, "jobs")},
                log=_by_job(await _all(connection, "log")),
                artifacts={
                    job_id: {row["name"]: row for row in its}
                    for job_id, its in _by_job(await _all(connection, "artifacts")).items()
                },
                deliveries=_by_job(await _all(connection, "deliveries")),
            )
    finally:
        await engine.dispose()


async def _all(connection: AsyncConnection, name: str) -> list[Row]:
    return [dict(row) for row in (await connection.execute(text(QUERIES[name]))).mappings()]


def _by_job(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["job_id"]].append(row)
    return found


def decoded(value: Any) -> Any:
    """A JSON column, which some drivers give as text."""
    return json.loads(value) if isinstance(value, str) else value


@dataclass
class Seen:
    """What clients saw, in the order they did."""

    attempts: set[str] = field(default_factory=set)
    accepted: list[Row] = field(default_factory=list)
    statuses: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))
    cancels: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    downloads: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    webhooks: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))


def read_seen(path: Path) -> Seen:
    """The client's record."""
    seen = Seen()
    for line in lines(path):
        match line["what"]:
            case "attempt":
                seen.attempts.add(line["key"])
            case "accepted":
                seen.accepted.append(line)
            case "status":
                seen.statuses[line["job_id"]].append(line)
            case "cancel":
                seen.cancels[line["job_id"]].append(line["answer"])
            case "download":
                seen.downloads[line["job_id"]].add(line["sha256"])
            case "webhook":
                seen.webhooks[line["job_id"]].append(line)
    return seen
