"""Keeps what was read, in Redis for all gateways or in this process's memory.

Only what never changes is kept: the published files of a completed job. Whether the job is there and whose it is, is
asked of the database each time before; so nothing is stale after a write by any process, and nothing is shown to
another user. Keys begin with `user:<id>:`, so that one user's part can be taken out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import cashews
from cashews.exceptions import CacheBackendInteractionError
from redis.exceptions import RedisError

from gateway.outage import SILENCE_S, Outage
from pipeline.vocabulary import ArtifactRef

PREFIX = "t2m:cache:"
KEPT_S = 3600
SIZE = 10_000
"""Entries in memory; the oldest go first. Redis has its own bound (`maxmemory`)."""
CONNECTIONS = 10
"""To Redis, kept open; more requests at once wait for one."""
AWAY = (CacheBackendInteractionError, RedisError, OSError)


class Cache:
    """Entries by key. While Redis is away nothing is found and nothing is kept.

    Args:
        url: of Redis; "" for memory.
    """

    def __init__(self, url: str) -> None:
        self.backend = "redis" if url else "memory"
        self.counts: Counter[str] = Counter()
        self._outage = Outage("nothing is cached", self.ping)
        self._cache = cashews.Cache()
        if url:
            limits: dict[str, Any] = {"max_connections": CONNECTIONS, "wait_for_connection_timeout": SILENCE_S}
            limits |= {"socket_timeout": SILENCE_S, "socket_connect_timeout": SILENCE_S}
            self._cache.setup(url, pickle_type="json", suppress=False, client_side=False, **limits)
        else:
            self._cache.setup(f"mem://?size={SIZE}&check_interval=60")

    async def files(self, user_id: str, job_id: str) -> dict[str, ArtifactRef] | None:
        """The published files of a completed job, if they are kept."""
        kept = await self._get(files_key(user_id, job_id))
        return None if kept is None else {name: ArtifactRef.model_validate(ref) for name, ref in kept.items()}

    async def keep_files(self, user_id: str, job_id: str, files: Mapping[str, ArtifactRef]) -> None:
        """Keep them for an hour."""
        await self._set(files_key(user_id, job_id), _text(files))

    async def add_files(self, user_id: str, job_id: str, files: Mapping[str, ArtifactRef]) -> bool:
        """Keep them for an hour, unless they are kept; returns whether they were not. Raises as `invalidate` does."""
        key = PREFIX + files_key(user_id, job_id)
        added = await self._cache.set(key, _text(files), expire=KEPT_S, exist=False)
        self.counts["sets"] += added
        return added

    async def invalidate(self, pattern: str | None, user_id: str | None) -> int:
        """Remove a user's entries, or those whose key matches, or all; returns how many.

        Raises:
            one of `AWAY`: Redis is away.
        """
        own = "" if user_id is None else f"user:{user_id}:"
        chosen = [key for key in await self.keys() if key.startswith(own) and fnmatchcase(key, pattern or "*")]
        if chosen:
            await self._cache.delete_many(*(PREFIX + key for key in chosen))
        self.counts["deletes"] += len(chosen)
        return len(chosen)

    async def keys(self) -> list[str]:
        """Of all entries. Raises as `invalidate` does."""
        return [key.removeprefix(PREFIX) async for key in self._cache.scan(f"{PREFIX}*")]

    async def ping(self) -> None:
        """A round trip. Raises as `invalidate` does."""
        await self._cache.ping()

    async def close(self) -> None:
        """Close the connections."""
        await self._outage.close()
        await self._cache.close()

    async def _get(self, key: str) -> Any:  # noqa: ANN401 - any JSON
        text = None
        if self._outage.over:
            try:
                text = await self._cache.get(PREFIX + key)
            except AWAY as error:
                self._fail(error)
        self.counts["misses" if text is None else "hits"] += 1
        return None if text is None else json.loads(text)

    async def _set(self, key: str, text: str) -> None:
        if self._outage.over:
            try:
                await self._cache.set(PREFIX + key, text, expire=KEPT_S)
                self.counts["sets"] += 1
            except AWAY as error:
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.counts["errors"] += 1
        self._outage.begin(error)


def files_key(user_id: str, job_id: str) -> str:
    """Of a job's files."""
    return f"user:{user_id}:job:{job_id}:files"


def _text(files: Mapping[str, ArtifactRef]) -> str:
    return json.dumps({name: ref.model_dump(mode="json") for name, ref in files.items()})
