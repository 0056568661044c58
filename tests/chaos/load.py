"""A client that wants videos: posts jobs, watches, cancels and downloads them, and writes down what it was told."""

from __future__ import annotations

import asyncio
import hashlib
import random
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import aiohttp

from tests.chaos.record import Record

POLL_S = 1.0
REQUEST_S = 15.0
FINAL = ("completed", "failed", "cancelled")
LOST = (aiohttp.ClientError, asyncio.TimeoutError, OSError)
TWINS = 4
"""Requests that come again and again and must give equal videos, whoever made them; half of the short ones."""


@dataclass(frozen=True)
class Wish:
    """What the client will do.

    Attributes:
        jobs: in all.
        longer: of them, renders long enough for checkpoints.
        seconds: over which the jobs are posted.
        cancelled, hooked: shares that are cancelled at a random moment, and that name a receiver.
    """

    jobs: int
    longer: int
    seconds: float
    cancelled: float = 0.12
    hooked: float = 0.3


SHORT = {"prompt": "a red ball", "duration": 1, "quality": "720p", "steps": 2}
LONGER = {"prompt": "a blue square", "duration": 1, "quality": "720p", "steps": 24}


class Load:
    """One user's jobs."""

    def __init__(self, url: str, token: str, wish: Wish, dice: random.Random, record: Record) -> None:
        self._url, self._wish, self._dice, self._record = url, wish, dice, record
        self._headers = {"Authorization": f"Bearer {token}"}
        self.open: set[str] = set()
        """Accepted and not yet seen to end."""
        self.accepted = 0

    async def run(self, hook: str) -> None:
        """Until every accepted job has ended in the client's eyes; cancel it to stop earlier.

        Args:
            hook: URL of the receiver.
        """
        longer = set(self._dice.sample(range(self._wish.jobs), self._wish.longer))
        async with (
            aiohttp.ClientSession(headers=self._headers, timeout=aiohttp.ClientTimeout(REQUEST_S)) as self._http,
            asyncio.TaskGroup() as group,
        ):
            for number in range(self._wish.jobs):
                group.create_task(self._job(self._body(number, number in longer, hook)))
                await asyncio.sleep(self._dice.expovariate(self._wish.jobs / self._wish.seconds))

    async def want(self, *bodies: dict[str, Any]) -> None:
        """Just these jobs, side by side, until they have ended."""
        async with (
            aiohttp.ClientSession(headers=self._headers, timeout=aiohttp.ClientTimeout(REQUEST_S)) as self._http,
            asyncio.TaskGroup() as group,
        ):
            for body in bodies:
                group.create_task(self._job(body))

    def _body(self, number: int, longer: bool, hook: str) -> dict[str, Any]:
        body = dict(LONGER if longer else SHORT) | {"seed": self._seed(number, longer)}
        if self._dice.random() < self._wish.hooked:
            body["webhook_url"] = hook
        return body

    def _seed(self, number: int, longer: bool) -> int:
        return self._dice.randrange(TWINS) if longer or self._dice.random() < 0.5 else TWINS + number

    async def _job(self, body: dict[str, Any]) -> None:
        job_id = await self._post(body)
        canceller = None
        if self._dice.random() < self._wish.cancelled:
            canceller = asyncio.create_task(self._cancel(job_id, self._dice.expovariate(1 / 8)))
        status = await self._watch(job_id)
        if canceller is not None:
            await canceller
        if status == "completed":
            await self._download(job_id)
        self.open.discard(job_id)

    async def _post(self, body: dict[str, Any]) -> str:
        """Ask until there is an answer; the key makes that one job."""
        key = uuid4().hex
        self._record.note("attempt", key=key)
        request = " ".join(f"{name}={value}" for name, value in sorted(body.items()) if name != "webhook_url")
        while True:
            status, answer = await self._ask("POST", "/videos/generate", json=body, headers={"Idempotency-Key": key})
            if status == 202:
                job_id = str(answer["data"]["job_id"])
                self.open.add(job_id)
                self.accepted += 1
                self._record.note("accepted", key=key, job_id=job_id, request=request, webhook="webhook_url" in body)
                return job_id
            assert status == 0 or status >= 500, answer
            await asyncio.sleep(POLL_S)

    async def _watch(self, job_id: str) -> str:
        last = None
        while True:
            status, answer = await self._ask("GET", f"/videos/{job_id}/status")
            if status == 200:
                seen = (answer["data"]["status"], answer["data"]["progress"])
                if seen != last:
                    self._record.note("status", job_id=job_id, status=seen[0], progress=seen[1])
                    last = seen
                if seen[0] in FINAL:
                    return str(seen[0])
            await asyncio.sleep(POLL_S)

    async def _cancel(self, job_id: str, after_s: float) -> None:
        await asyncio.sleep(after_s)
        while True:
            status, answer = await self._ask("POST", f"/jobs/{job_id}/cancel")
            if status == 200:
                self._record.note("cancel", job_id=job_id, answer=answer["data"]["status"])
                return
            if status == 400:
                self._record.note("cancel", job_id=job_id, answer=answer["error"]["details"]["status"])
                return
            await asyncio.sleep(POLL_S)

    async def _download(self, job_id: str) -> None:
        while True:
            try:
                async with self._http.get(f"{self._url}/videos/{job_id}/download") as answer:
                    if answer.status == 200:
                        digest = hashlib.sha256(await answer.read()).hexdigest()
                        self._record.note("download", job_id=job_id, sha256=digest)
                        return
            except LOST:
                pass
            await asyncio.sleep(POLL_S)

    async def _ask(self, method: str, path: str, **options: Any) -> tuple[int, dict[str, Any]]:
        """Status and body of an answer; 0 without one."""
        try:
            async with self._http.request(method, self._url + path, **options) as answer:
                return answer.status, await answer.json()
        except (*LOST, ValueError):
            return 0, {}
