"""Blobs: shared while anything refers to them, removed when nothing does, and never too early."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.database import blobs
from gateway.database.blobs import Shared
from gateway.sweep import EVERY_S, FANS, Swept, run, sweep
from pipeline import keys
from pipeline.errors import StoreError
from pipeline.jobs import Jobs
from pipeline.store.base import ObjectInfo, ObjectStore
from pipeline.store.local import FileStore
from pipeline.vocabulary import Final, Stage, StageRecord, Status, new_id, now
from tests.unit.gateway.fixtures import OpenWorld
from tests.unit.gateway.support import API, MEDIA, World, content, until
from tests.unit.gateway.uploading import picture, upload

AT_ONCE = timedelta(0)
USERS = ("ada", "eve")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, (kind, size) in MEDIA.items():
        monkeypatch.setitem(MEDIA, name, (kind, min(size, 1000)))


def stored(world: World) -> set[str]:
    return {info.key for info in world.store.list("blobs/")}


async def delete(world: World, path: str, user: str = "ada") -> None:
    response = await world.client.delete(f"{API}{path}", headers=world.headers(user))
    assert response.status == 200, await response.text()


async def sweep_in(world: World, grace: timedelta, *, dry_run: bool = False) -> Swept:
    return await sweep(world.gateway.store, world.gateway.database, grace, dry_run=dry_run)


async def numbers(world: World) -> dict[str, Any]:
    return await world.data("/system/deduplication")


async def test_a_blob_goes_with_its_last_reference_and_not_before(world: World) -> None:
    first, second = await upload(world, b"same"), await upload(world, b"same", user="eve")
    await sweep_in(world, AT_ONCE)
    await delete(world, f"/files/{first['id']}")
    await sweep_in(world, AT_ONCE)
    assert await (await world.get(f"/files/{second['id']}/download", "eve")).read() == b"same"
    await delete(world, f"/files/{second['id']}", "eve")
    swept = await sweep_in(world, AT_ONCE)
    assert (swept.blobs, swept.bytes) == (1, 4)
    assert stored(world) == set()


async def test_a_dry_run_says_what_would_go_and_changes_nothing(world: World) -> None:
    made = await upload(world, b"text")
    await upload(world, b"kept")
    await delete(world, f"/files/{made['id']}")
    world.store.create("incoming/0123", b"half a file")
    before, numbers_before = stored(world), await numbers(world)
    planned = await sweep_in(world, AT_ONCE, dry_run=True)
    assert (planned.blobs, planned.waiting, planned.incoming) == (0, 1, 1)  # no sweep has found it before
    assert (stored(world), await numbers(world)) == (before, numbers_before)
    assert world.store.head("incoming/0123") is not None

    await asyncio.sleep(1.1)
    await sweep_in(world, timedelta(seconds=1))
    planned = await sweep_in(world, AT_ONCE, dry_run=True)
    assert (planned.blobs, planned.bytes, planned.waiting) == (1, 4, 0)
    assert stored(world) == before
    done = await sweep_in(world, AT_ONCE)
    assert (done.blobs, done.bytes) == (1, 4)


async def test_a_dry_run_leaves_the_verdict_of_a_deleted_job(world: World) -> None:
    deleted = Final(job_id=new_id("job"), status=Status.CANCELLED, at=now())
    world.gateway.store.decide(deleted)
    await sweep_in(world, AT_ONCE, dry_run=True)
    assert world.gateway.store.final(deleted.job_id) is not None
    await sweep_in(world, AT_ONCE)
    assert world.gateway.store.final(deleted.job_id) is None


async def test_within_the_grace_nothing_goes(world: World) -> None:
    made = await upload(world, b"text")
    await delete(world, f"/files/{made['id']}")
    for _ in range(2):
        assert (await sweep_in(world, timedelta(hours=1))).blobs == 0
    assert len(stored(world)) == 1
    again = await upload(world, b"text")
    await sweep_in(world, AT_ONCE)
    assert await (await world.get(f"/files/{again['id']}/download")).read() == b"text"


@pytest.mark.usefixtures("small")
async def test_a_jobs_files_go_with_the_last_job_that_shares_them(world: World) -> None:
    first = await world.completed()
    second = await world.generate(reuse=True)
    await world.reached(second, "completed")
    told = await numbers(world)
    assert (told["jobs_reused"], told["requests_joined"]) == (1, 0)
    assert told["logical_bytes"] == 2 * told["stored_bytes"] == 2 * told["saved_bytes"]
    assert told["deduplication_ratio"] == 2
    await delete(world, f"/jobs/{first}")
    await sweep_in(world, AT_ONCE)
    assert await (await world.get(f"/videos/{second}/download")).read() == content(first, "1080p.mp4")
    await delete(world, f"/jobs/{second}")
    await sweep_in(world, AT_ONCE)
    assert stored(world) == set()
    assert list(world.store.list("jobs/")) == [], "bare verdicts go when no worker can be at it any more"


@pytest.mark.usefixtures("small")
async def test_what_an_unfinished_job_has_recorded_stays(world: World, tmp_path: Path) -> None:
    job_id = await world.generate()
    path = tmp_path / "mezzanine"
    path.write_bytes(b"frames")
    ref = world.store.put_file(path, "mezzanine.mov", "video/quicktime")
    record = StageRecord(job_id=job_id, stage=Stage.RENDER, inputs={}, outputs=(ref,), seconds=1.0, finished_at=now())
    world.worker.jobs.commit(record)
    await sweep_in(world, AT_ONCE)
    assert stored(world) == {ref.key}
    await world.work(world.worker.complete, job_id)
    await world.reached(job_id, "completed")
    await sweep_in(world, AT_ONCE)
    assert ref.key not in stored(world), "the mezzanine of a completed job is of no use"
    assert await (await world.get(f"/videos/{job_id}/download")).read() == content(job_id, "1080p.mp4")


async def test_thumbnails_go_with_their_file(world: World) -> None:
    made = await upload(world, picture(), "a.png")
    while len(stored(world)) < 4:
        await asyncio.sleep(0.05)
    await sweep_in(world, AT_ONCE)
    assert len(stored(world)) == 4
    await delete(world, f"/files/{made['id']}")
    await sweep_in(world, AT_ONCE)
    assert stored(world) == set()


async def test_the_numbers_move_with_the_world(world: World) -> None:
    assert (await numbers(world))["deduplication_ratio"] is None
    first, _ = await upload(world, b"text"), await upload(world, b"text")
    told = await numbers(world)
    assert (told["references"], told["unique_blobs"]) == (2, 1)
    assert (told["logical_bytes"], told["stored_bytes"], told["saved_bytes"]) == (8, 4, 4)
    other = await upload(world, b"other")
    for made in (first, other):
        await delete(world, f"/files/{made['id']}")
    await asyncio.sleep(2.1)
    await sweep_in(world, timedelta(seconds=2))  # old enough to be noted, not noted for long enough
    told = await numbers(world)
    assert (told["references"], told["saved_bytes"]) == (1, 0)
    assert (told["unreferenced_blobs"], told["unreferenced_bytes"]) == (1, 5)
    await sweep_in(world, AT_ONCE)
    assert (await numbers(world))["unreferenced_blobs"] == 0


async def test_many_who_ask_for_the_numbers_share_an_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, count = 0, blobs.shared

    async def counted(connection: AsyncConnection) -> Shared:
        nonlocal asked
        asked += 1
        while asked == 1 and world.gateway.traffic.under_way < 20:
            await asyncio.sleep(0.001)
        return await count(connection)

    monkeypatch.setattr(blobs, "shared", counted)
    await upload(world, b"text")
    told = await asyncio.gather(*(numbers(world) for _ in range(20)))
    assert [one["stored_bytes"] for one in told] == [4] * 20
    assert 1 < asked < 20, "each answer is to a question asked after it was wanted"


async def test_uploads_and_sweeps_at_the_same_time_lose_nothing(world: World) -> None:
    async def again_and_again(user: str) -> str:
        for _ in range(4):
            made = await upload(world, b"contended", user=user)
            response = await world.get(f"/files/{made['id']}/download", user)
            assert await response.read() == b"contended"
            await delete(world, f"/files/{made['id']}", user)
        return str((await upload(world, b"contended", user=user))["id"])

    swept = 0

    async def sweeping() -> None:
        nonlocal swept
        while True:
            await sweep_in(world, AT_ONCE)
            swept += 1

    task = asyncio.create_task(sweeping())
    left = await asyncio.gather(*(again_and_again(user) for user in USERS))
    assert swept and not task.done()
    task.cancel()
    for user, file_id in zip(USERS, left, strict=True):
        assert await (await world.get(f"/files/{file_id}/download", user)).read() == b"contended"


class Ledger:
    """What should be there: digest by path of every download."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.files: list[tuple[str, str, str]] = []  # user, path of the file, digest
        self.jobs: list[tuple[str, str]] = []  # path of the job, digest of its video

    async def upload(self, number: int) -> None:
        user, data = USERS[number % 2], b"content %d" % (number % 3)
        made = await upload(self.world, data, user=user)
        self.files.append((user, f"/files/{made['id']}", hashlib.sha256(data).hexdigest()))

    async def generate(self, number: int) -> None:
        job_id = await self.world.generate(prompt=f"prompt {number % 2}", seed=1, reuse=True)
        if not await self._reused(job_id):
            await self.world.work(self.world.worker.complete, job_id)
            await self.world.reached(job_id, "completed")
        digest = (await self.world.data(f"/files/{job_id.replace('job', 'video')}/metadata"))["checksum"]
        self.jobs.append((f"/jobs/{job_id}", digest.removeprefix("sha256:")))

    async def _reused(self, job_id: str) -> bool:
        return bool((await self.world.data(f"/jobs/{job_id}"))["reused_from"])

    async def delete_file(self, number: int) -> None:
        if self.files:
            user, path, _ = self.files.pop(number % len(self.files))
            await delete(self.world, path, user)

    async def delete_job(self, number: int) -> None:
        if self.jobs:
            await delete(self.world, self.jobs.pop(number % len(self.jobs))[0])

    async def sweep(self, number: int) -> None:
        await sweep_in(self.world, AT_ONCE)

    async def check(self) -> None:
        for user, path, digest in self.files:
            body = await (await self.world.get(f"{path}/download", user)).read()
            assert hashlib.sha256(body).hexdigest() == digest
        for path, digest in self.jobs:
            body = await (await self.world.get(f"{path.replace('jobs', 'videos')}/download")).read()
            assert hashlib.sha256(body).hexdigest() == digest

    async def clear(self) -> None:
        while self.files:
            await self.delete_file(0)
        while self.jobs:
            await self.delete_job(0)
        await self.sweep(0)
        assert stored(self.world) == set(), "all is freed when nothing is left"


STEPS: dict[str, Callable[[Ledger, int], Awaitable[None]]] = {
    "upload": Ledger.upload,
    "generate": Ledger.generate,
    "delete file": Ledger.delete_file,
    "delete job": Ledger.delete_job,
    "sweep": Ledger.sweep,
}


@pytest.mark.usefixtures("small")
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 5)), max_size=8))
async def test_in_any_order_every_live_download_stays_whole(world: World, steps: list[tuple[str, int]]) -> None:
    ledger = Ledger(world)
    for name, number in steps:
        await STEPS[name](ledger, number)
    await ledger.sweep(0)
    await ledger.check()
    await ledger.clear()


async def test_what_died_on_its_way_in_is_swept(world: World) -> None:
    world.store.create("incoming/0123", b"half a file")
    await sweep_in(world, timedelta(hours=1))
    assert world.store.head("incoming/0123") is not None
    await sweep_in(world, AT_ONCE)
    assert world.store.head("incoming/0123") is None


class Watched:
    """A store that tells how many objects of jobs were listed before one of theirs was read."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.ahead = self.most = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        for info in self._store.list(prefix):
            self.ahead += info.key.startswith(keys.JOBS)
            self.most = max(self.most, self.ahead)
            yield info

    def get(self, key: str) -> tuple[bytes, str]:
        self.ahead -= key.startswith(keys.JOBS)
        return self._store.get(key)


async def test_however_many_jobs_there_are_few_are_held_at_a_time(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.sweep.TOGETHER", 5)
    path = tmp_path / "named"
    refs = set()
    for number in range(30):
        path.write_bytes(b"%d" % number)
        ref = world.store.put_file(path, path.name, "text/plain")
        refs.add(ref.key)
        for name in ("a.json", "b.json"):
            world.store.create(f"{keys.JOBS}job_{number:02}/{name}", ref.digest.encode())
    watched: Any = Watched(world.store)
    for _ in range(2):
        await sweep(Jobs(watched), world.gateway.database, AT_ONCE)
    assert stored(world) == refs
    assert (watched.ahead, watched.most) == (0, 11), "five jobs, and the first object of the next"


async def test_a_gateway_sweeps_soon_after_its_start(
    open_world: OpenWorld, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.sweep.FIRST_S", 0.0)
    store.create("incoming/0123", b"half a file")
    os.utime(store.local_path("incoming/0123"), (0, 0))
    await open_world()

    async def swept() -> bool | None:
        return store.head("incoming/0123") is None or None

    await until(swept)


async def test_a_sweep_that_fails_waits_as_long_as_one_that_does_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused: list[float] = []

    async def pause(seconds: float) -> None:
        paused.append(seconds)
        if len(paused) == 3:
            raise asyncio.CancelledError

    async def fail(*_: object) -> None:
        raise StoreError("This key may not delete.")

    monkeypatch.setattr("gateway.sweep.asyncio.sleep", pause)
    monkeypatch.setattr("gateway.sweep.sweep", fail)
    with pytest.raises(asyncio.CancelledError):
        await run(world.gateway)
    assert paused[1:] == [EVERY_S] * 2


def test_blobs_lie_where_the_sweep_looks() -> None:
    digest = f"sha256:{hashlib.sha256(b'').hexdigest()}"
    assert any(keys.blob(digest).startswith(fan) for fan in FANS)
