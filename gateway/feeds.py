"""What watchers of jobs are served from: each new entry is read and encoded once, however many watch the job."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from gateway import sse
from gateway.database import events
from gateway.database.engine import Database
from gateway.sse import Frame

POLL_S = 2.0
"""Between two looks at all watched jobs, for news that got lost."""
KEPT = 200
"""Frames kept per watched job, some 400 bytes each but for a few pictures; a watcher that lags further behind reads
from the database."""
READ_AT_ONCE = 500


@dataclass(eq=False)
class Feed:
    """The newest frames of one job.

    Attributes:
        start, end: `frames` are all entries after number `start` up to number `end`.
        watchers: set when there are new frames.
    """

    start: int
    end: int
    frames: deque[Frame] = field(default_factory=deque)
    watchers: set[asyncio.Event] = field(default_factory=set)

    def append(self, new: Collection[Frame]) -> None:
        """Keep new frames, drop the oldest, wake the watchers."""
        for frame in new:
            if frame.seq > self.end:
                self.frames.append(frame)
                self.end = frame.seq
        while len(self.frames) > KEPT:
            self.start = self.frames.popleft().seq
        for watcher in self.watchers:
            watcher.set()

    def after(self, seq: int) -> list[Frame]:
        """The frames after number `seq`, which is not before `start`."""
        return [frame for frame in self.frames if frame.seq > seq]


class Feeds:
    """The feeds of all jobs that are watched through this gateway."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._feeds: dict[str, Feed] = {}
        self._stale: set[str] = set()
        self._news = asyncio.Event()
        self.closed = False

    @property
    def watchers(self) -> int:
        """How many watch at the moment."""
        return sum(len(feed.watchers) for feed in self._feeds.values())

    def tell(self, job_ids: Collection[str]) -> None:
        """These jobs have new entries."""
        stale = self._feeds.keys() & set(job_ids)
        if stale:
            self._stale |= stale
            self._news.set()

    def close(self) -> None:
        """Let all watchers go home."""
        self.closed = True
        for feed in self._feeds.values():
            feed.append([])

    async def run(self) -> None:
        """Read new entries until cancelled."""
        while True:
            try:
                async with asyncio.timeout(POLL_S):
                    await self._news.wait()
            except TimeoutError:
                self._stale |= self._feeds.keys()
            self._news.clear()
            stale, self._stale = self._stale & self._feeds.keys(), set()
            await self._read(stale)

    async def follow(self, job_id: str, after: int, present: int, pause_s: float) -> AsyncGenerator[list[Frame], None]:
        """The frames of a job after number `after`, as they come; nothing whenever `pause_s` went by without one.

        Args:
            present: number of the last entry there is, as just read.
        """
        with self._watching(job_id, present) as (feed, changed):
            while not self.closed:
                changed.clear()
                frames = feed.after(after) if after >= feed.start else await self._stored(job_id, after)
                if not frames:
                    try:
                        async with asyncio.timeout(pause_s):
                            await changed.wait()
                        continue
                    except TimeoutError:
                        pass
                yield frames
                after = frames[-1].seq if frames else after

    @contextmanager
    def _watching(self, job_id: str, present: int) -> Iterator[tuple[Feed, asyncio.Event]]:
        feed = self._feeds.setdefault(job_id, Feed(present, present))
        changed = asyncio.Event()
        feed.watchers.add(changed)
        self.tell([job_id])  # what was entered since `present` was read
        try:
            yield feed, changed
        finally:
            feed.watchers.discard(changed)
            if not feed.watchers:
                self._feeds.pop(job_id, None)

    async def _read(self, job_ids: Collection[str]) -> None:
        if not job_ids:
            return
        known = {job_id: self._feeds[job_id].end for job_id in job_ids}
        try:
            async with self._database.read() as connection:
                found = await events.newer(connection, known, READ_AT_ONCE)
        except BaseException:
            self._stale |= set(job_ids)
            raise
        for job_id, entries in found.items():
            if job_id in self._feeds:
                self._feeds[job_id].append([sse.frame(entry) for entry in entries])
        if sum(len(entries) for entries in found.values()) == READ_AT_ONCE:  # there may be more
            self.tell(job_ids)

    async def _stored(self, job_id: str, after: int) -> list[Frame]:
        async with self._database.read() as connection:
            found = await events.newer(connection, {job_id: after}, READ_AT_ONCE)
        return [sse.frame(entry) for entry in found.get(job_id, [])]
