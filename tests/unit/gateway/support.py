"""A running gateway, and a stand-in for the workers that speaks their vocabulary through the real store and bus."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import dramatiq
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient

from config.catalogue import Catalogue
from config.settings import Settings
from gateway.auth.base import Role
from gateway.auth.local import LocalAuthenticator
from gateway.context import GATEWAY, Gateway
from pipeline.bus.base import EventPublisher
from pipeline.jobs import Jobs
from pipeline.progress import Events
from pipeline.store.base import ObjectStore
from pipeline.vocabulary import (
    ArtifactRef,
    Event,
    EventKind,
    Failure,
    Final,
    Heartbeat,
    JobRequest,
    Stage,
    StageMessage,
    Status,
    new_id,
    now,
)

T = TypeVar("T")
PATIENCE_S = 60.0
API = "/api/v1"
MEDIA = {
    "720p.mp4": ("video/mp4", 300_000),
    "1080p.mp4": ("video/mp4", 2_500_000),
    "poster-small.jpg": ("image/jpeg", 1_000),
    "poster-medium.jpg": ("image/jpeg", 2_000),
    "poster-large.jpg": ("image/jpeg", 3_000),
    "manifest.json": ("application/json", 400),
}
"""Names, types and sizes of what the stand-in publishes; the bytes are random, as the gateway never looks into them."""


def content(job_id: str, name: str) -> bytes:
    """The bytes the stand-in publishes under a name."""
    return random.Random(f"{job_id}/{name}").randbytes(MEDIA[name][1])


def event(job_id: str, kind: EventKind, stage: Stage, n: int = 0, **fields: Any) -> Event:
    known = {"id": new_id("event"), "epoch": 1, "hop": 0, "at": now()} | fields
    return Event(job_id=job_id, kind=kind, stage=stage, n=n, **known)


class Worker:
    """Does what workers do to the store and the bus, and nothing else. Blocks; see `World.work`."""

    def __init__(self, store: ObjectStore, publisher: EventPublisher, folder: Path) -> None:
        self.jobs, self.store, self.publisher, self.folder = Jobs(store), store, publisher, folder
        self.more: dict[str, tuple[Path, str]] = {}  # further files to publish, with their types

    def tell(self, job_id: str, kind: EventKind, stage: Stage, n: int = 0, **fields: Any) -> Event:
        told = event(job_id, kind, stage, n, **fields)
        self.publisher.publish(told)
        return told

    def render_half(self, job_id: str) -> None:
        self.tell(job_id, EventKind.STARTED, Stage.RENDER)
        self.tell(job_id, EventKind.PROGRESS, Stage.RENDER, 1, fraction=0.5, data={"step": 12, "steps": 24})

    def show(self, job_id: str, jpeg: bytes, at_s: float) -> None:
        message = StageMessage(job_id=job_id, stage=Stage.RENDER, trace_id="trace-1", sent_at=now())
        events = Events(self.publisher, message)
        events.preview(jpeg, at_s)
        events.flush()

    def complete(self, job_id: str) -> None:
        """All stages, the published files, the verdict."""
        for stage in Stage:
            self.tell(job_id, EventKind.STARTED, stage)
            self.tell(job_id, EventKind.FINISHED, stage, 1, fraction=1.0)
        self.decide(job_id)
        self.tell(job_id, EventKind.COMPLETED, Stage.PUBLISH, 2)

    def decide(self, job_id: str) -> None:
        """The verdict alone, as of a worker that dies before it tells."""
        further = (self.store.put_file(path, name, kind) for name, (path, kind) in self.more.items())
        refs = (*(self._put(job_id, name) for name in MEDIA), *further)
        document = {"job_id": job_id, "video": {"width": 1920, "height": 1080}, "audio": None}
        final = Final(job_id=job_id, status=Status.COMPLETED, at=now(), artifacts=refs, metadata=document)
        self.jobs.decide(final)

    def fail(self, job_id: str) -> None:
        failure = Failure(stage=Stage.RENDER, code="OutOfMemory", message="The GPU is full.", remedy="Ask for less.")
        self.jobs.decide(Final(job_id=job_id, status=Status.FAILED, at=now(), failure=failure))
        self.tell(job_id, EventKind.FAILED, Stage.RENDER, 2)

    def beat(self, worker_id: str = "gpu-1", model: str = "tiny", **fields: Any) -> None:
        known: dict[str, Any] = {"host": "gpu", "queues": (f"render.{model}",), "at": now()} | fields
        self.publisher.publish(Heartbeat(worker_id=worker_id, **known))

    def _put(self, job_id: str, name: str) -> ArtifactRef:
        path = self.folder / f"{job_id}-{name}"
        path.write_bytes(content(job_id, name))
        return self.store.put_file(path, name, MEDIA[name][0])


@dataclass
class World:
    """One gateway with everything around it."""

    settings: Settings
    catalogue: Catalogue
    store: ObjectStore
    broker: dramatiq.Broker
    worker: Worker
    client: TestClient[Any, Any]

    @property
    def gateway(self) -> Gateway:
        app = self.client.app
        assert app is not None
        return app[GATEWAY]

    def token(self, user: str = "ada", role: Role = Role.USER, hours: float = 1, **more: Any) -> str:
        return LocalAuthenticator.open(self.settings).issue(user, role, timedelta(hours=hours), **more)

    def headers(self, user: str = "ada", **more: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(user)}", **more}

    async def get(self, path: str, user: str = "ada", method: str = "GET", **headers: str) -> ClientResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.request(method, API + path, headers=self.headers(user, **named))

    async def data(self, path: str, user: str = "ada") -> dict[str, Any]:
        response = await self.get(path, user)
        body = await response.json()
        assert response.status == 200, body
        assert body["success"] is True
        return dict(body["data"])

    async def generate(self, user: str = "ada", **body: Any) -> str:
        body = {"prompt": "A beautiful sunset over mountains"} | body
        response = await self.client.post(f"{API}/videos/generate", json=body, headers=self.headers(user))
        assert response.status == 202, await response.text()
        return str((await response.json())["data"]["job_id"])

    async def work(self, method: Callable[..., object], *arguments: Any, **named: Any) -> None:
        await asyncio.to_thread(method, *arguments, **named)

    async def completed(self) -> str:
        """A job that went all the way."""
        job_id = await self.generate()
        await self.work(self.worker.complete, job_id)
        await self.reached(job_id, "completed")
        return job_id

    async def reached(self, job_id: str, status: str) -> dict[str, Any]:
        async def there() -> dict[str, Any] | None:
            data = await self.data(f"/videos/{job_id}/status")
            return data if data["status"] == status else None

        return await until(there)

    def stored_request(self, job_id: str) -> JobRequest:
        return Jobs(self.store).request(job_id)


async def until(question: Callable[[], Awaitable[T | None]]) -> T:
    """The first answer that is not None; gives up after `PATIENCE_S`."""
    async with asyncio.timeout(PATIENCE_S):
        while (answer := await question()) is None:
            await asyncio.sleep(0.02)
        return answer


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
