"""A database that was dropped comes back from the store, and the API tells of it what it told before."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from sqlalchemy import func, select, text

from cli.servers import embedded_app
from config.catalogue import Catalogue
from config.errors import T2MError
from config.settings import Settings
from gateway.archive import Archive
from gateway.database import migrate
from gateway.database.engine import Database
from gateway.database.tables import metadata as schema
from gateway.rebuild import Rebuild, Restored
from gateway.sweep import sweep
from pipeline import keys
from pipeline.embedded import EmbeddedRuntime
from pipeline.jobs import Jobs
from pipeline.steps import Made, Work
from pipeline.store.base import ObjectStore
from pipeline.vocabulary import Head, Stage, Status, now
from tests.no_op_server import encode, thumbnails
from tests.small_stages import SMALL, prompted_render, wait_for_go, write
from tests.unit.gateway.support import API, Worker, World, until
from tests.unit.gateway.uploading import inspected, picture, send, upload

OpenSite = Callable[[], Awaitable[World]]
REVISION = Catalogue.load().get("tiny").revision


def described(work: Work) -> Made:
    return Made(write(work, "metadata.json"), {"metadata": {"generation": {"model_revision": REVISION}}})


@pytest.fixture
async def open_site(settings: Settings, tmp_path: Path) -> AsyncIterator[OpenSite]:
    """Starts a gateway with workers in this process; the prompt says which stage waits (for the file `go`) or fails."""
    settings.data_dir.mkdir(exist_ok=True)
    catalogue = Catalogue.load()

    def render(work: Work) -> Made:
        if work.request.prompt == "broken":
            raise T2MError("It cannot be drawn.", remedy="Ask for something else.")
        with (settings.data_dir / f"renders-{work.request.job_id}").open("a") as renders:
            renders.write("one\n")
        return prompted_render(work, settings.data_dir)

    def encode_later(work: Work) -> Made:
        if work.request.prompt == "encode later":
            wait_for_go(work, settings.data_dir)
        return encode(work)

    stages = {Stage.RENDER: render, Stage.ENCODE: encode_later, Stage.THUMBNAILS: thumbnails, Stage.METADATA: described}
    async with AsyncExitStack() as stack:

        async def start() -> World:
            runtime = EmbeddedRuntime(settings, catalogue, functions=SMALL | stages)
            app = embedded_app(settings, catalogue, runtime, grace_s=1)
            client = await stack.enter_async_context(TestClient(TestServer(app)))
            worker = Worker(runtime.store, runtime.bus, tmp_path)
            return World(settings, catalogue, runtime.store, runtime.broker, worker, client)

        yield start


async def drop(settings: Settings) -> None:
    """All tables and what they hold."""
    database = Database(settings.database_url)
    if database.dialect == "sqlite":
        for path in settings.data_dir.glob("t2m.db*"):
            path.unlink()
    else:
        async with database.write() as connection:
            await connection.execute(text("DROP SCHEMA public CASCADE"))
            await connection.execute(text("CREATE SCHEMA public"))
    await database.close()


async def rebuild(settings: Settings, store: ObjectStore, *, dry_run: bool = False) -> Restored:
    database = Database(settings.database_url)
    await migrate.upgrade(database)
    restored = await Rebuild(settings, Catalogue.load(), database, store, dry_run=dry_run).run()
    await database.close()
    return restored


async def rows(settings: Settings) -> dict[str, int]:
    """How many each table has."""
    database = Database(settings.database_url)
    async with database.read() as connection:
        counts = {
            name: (await connection.execute(select(func.count()).select_from(table))).scalar_one()
            for name, table in schema.tables.items()
        }
    await database.close()
    return counts


async def bytes_of(world: World, path: str) -> bytes:
    response = await world.get(path)
    assert response.status == 200, await response.text()
    return await response.read()


async def told_of_job(world: World, job_id: str) -> dict[str, Any]:
    """All that the API tells of a job which has ended."""
    told = {path: await world.data(path) for path in (f"/jobs/{job_id}", f"/jobs/{job_id}/logs?limit=100")}
    if told[f"/jobs/{job_id}"]["status"] == "completed":
        told["metadata"] = await world.data(f"/videos/{job_id}/metadata")
        for path in (f"/videos/{job_id}/download", f"/videos/{job_id}/thumbnail"):
            told[path] = {"bytes": await bytes_of(world, path)}
    return told


async def told_of_file(world: World, file_id: str) -> dict[str, Any]:
    """All that the API tells of a file, but for when it was last looked into and how often it was fetched."""
    details = await inspected(world, file_id)
    content = await bytes_of(world, f"/files/{file_id}/download")
    thumbnail = await bytes_of(world, f"/files/{file_id}/thumbnail") if details["file_type"] == "image" else b""
    told = {name: value for name, value in details.items() if name not in ("updated_at", "download_count")}
    return told | {"bytes": content, "picture": thumbnail}


async def ended(world: World, *statuses: str) -> dict[str, str]:
    """A job for each way to end."""
    made = {"completed": await world.generate(metadata={"of": "mine"}), "failed": await world.generate(prompt="broken")}
    made |= {"cancelled": await world.generate(prompt="wait"), "of eve": await world.generate("eve")}
    await world.client.post(f"{API}/jobs/{made['cancelled']}/cancel", headers=world.headers())
    for status in ("completed", "failed", "cancelled"):
        await world.reached(made[status], status)
    made["reused"] = await world.generate(reuse=True)
    await world.reached(made["reused"], "completed")

    async def done() -> bool | None:
        return (await world.data(f"/videos/{made['of eve']}/status", "eve"))["status"] == "completed" or None

    await until(done)
    return made


async def test_what_was_dropped_comes_back(open_site: OpenSite, settings: Settings) -> None:
    world = await open_site()
    jobs = await ended(world)
    files = [await upload(world, subdirectory="a/b", description="mine"), await upload(world, picture(), "a.png")]
    gone = await upload(world, b"deleted")
    await world.client.delete(f"{API}/files/{gone['id']}", headers=world.headers())
    deleted = await world.generate()
    await world.reached(deleted, "completed")
    await world.client.delete(f"{API}/jobs/{deleted}", headers=world.headers())
    (settings.data_dir / "waiting").unlink(missing_ok=True)
    waiting = await world.generate(prompt="wait")
    await until(lambda: _is_there(settings.data_dir / "waiting"))
    own = [jobs[name] for name in ("completed", "failed", "cancelled", "reused")]
    before = [await told_of_job(world, job_id) for job_id in own] + [
        await told_of_file(world, file["id"]) for file in files
    ]
    lists = [await world.data("/jobs"), await world.data("/files")]
    await Archive(world.gateway.database, Jobs(world.store)).keep(now())
    await world.client.close()
    counts = await rows(settings)

    await drop(settings)
    planned = await rebuild(settings, world.store, dry_run=True)
    assert (await rows(settings))["jobs"] == 0
    restored = await rebuild(settings, world.store)
    assert planned == restored
    assert restored == Restored(jobs=restored.jobs, files=2)
    assert restored.jobs == {"completed": 3, "failed": 1, "cancelled": 1, "processing": 1}
    again = await rebuild(settings, world.store)
    assert again == Restored(present=8)
    after = await rows(settings)
    assert {name: after[name] for name in ("jobs", "artifacts", "files")} == {
        name: counts[name] for name in ("jobs", "artifacts", "files")
    }

    world = await open_site()
    assert [await told_of_job(world, job_id) for job_id in own] + [
        await told_of_file(world, file["id"]) for file in files
    ] == before
    assert [one["id"] for one in (await world.data("/files"))["items"]] == [one["id"] for one in lists[1]["items"]]
    assert [one["id"] for one in (await world.data("/jobs"))["items"]] == [one["id"] for one in lists[0]["items"]]
    assert (await world.get(f"/jobs/{jobs['of eve']}")).status == 404, "owners are restored"
    for path in (f"/files/{gone['id']}", f"/jobs/{deleted}"):
        assert (await world.get(path)).status == 404, "what was deleted stays so"
    (settings.data_dir / "go").touch()
    await world.reached(waiting, "completed")
    assert await bytes_of(world, f"/videos/{waiting}/download")
    assert (await world.data(f"/jobs/{await world.generate(reuse=True)}"))["reused_from"] is not None


async def _is_there(path: Path) -> bool | None:
    return path.exists() or None


async def test_a_log_that_was_not_kept_is_told_by_the_records(open_site: OpenSite, settings: Settings) -> None:
    world = await open_site()
    jobs = await ended(world)
    before = {name: await world.data(f"/jobs/{jobs[name]}") for name in ("completed", "failed", "cancelled", "reused")}
    await world.client.close()
    await drop(settings)
    assert not (await rebuild(settings, world.store)).problems
    world = await open_site()
    for name, job in before.items():
        told = await world.data(f"/jobs/{jobs[name]}")
        lost = {"started_at", "duration", "progress"}  # as far as events alone told of it
        assert {k: v for k, v in told.items() if k not in lost} == {k: v for k, v in job.items() if k not in lost}
    lines = (await world.data(f"/jobs/{jobs['completed']}/logs"))["logs"]
    assert [line["message"] for line in lines if line["message"].startswith(("Rendering", "Job"))] == [
        "Rendering started",
        "Rendering finished",
        "Job completed",
    ]


async def test_rows_that_are_there_are_left_alone(open_site: OpenSite, settings: Settings) -> None:
    world = await open_site()
    await ended(world)
    made = await upload(world)
    await inspected(world, made["id"])
    await world.client.close()
    before = await rows(settings)
    assert await rebuild(settings, world.store) == Restored(present=6)
    assert await rows(settings) == before
    database = Database(settings.database_url)
    async with database.write() as connection:
        await connection.execute(schema.tables["jobs"].delete().where(schema.tables["jobs"].c.status == "failed"))
        await connection.execute(schema.tables["files"].delete())
    await database.close()
    restored = await rebuild(settings, world.store)
    assert (restored.jobs, restored.files, restored.present) == ({Status.FAILED: 1}, 1, 4)
    assert (await rows(settings))["jobs"] == before["jobs"]


async def test_what_cannot_be_read_is_named_and_the_rest_restored(open_site: OpenSite, settings: Settings) -> None:
    world = await open_site()
    jobs = await ended(world)
    made = [await upload(world), await upload(world)]
    await Archive(world.gateway.database, Jobs(world.store)).keep(now())
    await world.client.close()
    await drop(settings)
    store = world.store
    for key in (keys.request(jobs["failed"]), keys.log(jobs["completed"]), keys.upload(made[0]["id"])):
        store.replace(key, b'{"version": 99}', store.get(key)[1])
    store.delete(keys.request(jobs["cancelled"]))
    restored = await rebuild(settings, store)
    assert (restored.jobs, restored.files) == ({Status.COMPLETED: 3}, 1)
    named = [jobs["failed"], jobs["completed"], jobs["cancelled"], made[0]["id"]]
    assert len(restored.problems) == len(named)
    for one in named:
        assert any(one in problem for problem in restored.problems)
    world = await open_site()
    assert (await world.data(f"/jobs/{jobs['completed']}"))["status"] == "completed"


async def test_a_stage_that_was_done_is_not_repeated(open_site: OpenSite, settings: Settings) -> None:
    world = await open_site()
    job_id = await world.generate(prompt="encode later")
    await until(lambda: _is_there(settings.data_dir / "waiting"))
    await world.client.close()
    await drop(settings)
    await rebuild(settings, world.store)
    world = await open_site()
    assert (await world.data(f"/videos/{job_id}/status"))["progress"] >= 70
    (settings.data_dir / "go").touch()
    await world.reached(job_id, "completed")
    assert (settings.data_dir / f"renders-{job_id}").read_text().count("one") == 1


async def test_a_job_goes_on_with_the_epoch_after_that_of_its_render(open_site: OpenSite, settings: Settings) -> None:
    world = await open_site()
    job_id = await world.generate(prompt="wait")
    await until(lambda: _is_there(settings.data_dir / "waiting"))
    await world.client.close()
    key = keys.head(job_id)
    if world.store.head(key) is not None:
        world.store.delete(key)
    world.store.create(key, Head(job_id=job_id, epoch=3, hop=0, holder="").model_dump_json().encode())
    await drop(settings)
    await rebuild(settings, world.store)
    (settings.data_dir / "go").touch()
    world = await open_site()
    await world.reached(job_id, "completed")


async def test_a_sweep_before_the_rebuild_takes_nothing(open_site: OpenSite, settings: Settings) -> None:
    world = await open_site()
    jobs = await ended(world)
    made = await upload(world)
    await world.client.close()
    await drop(settings)
    world = await open_site()
    for _ in range(2):
        await sweep(world.gateway.store, world.gateway.database, timedelta(0))
    await rebuild(settings, world.store)
    assert await bytes_of(world, f"/files/{made['id']}/download")
    assert await bytes_of(world, f"/videos/{jobs['completed']}/download")


async def test_logs_are_kept_once_and_not_of_deleted_jobs(world: World) -> None:
    job_id, archive = await world.completed(), Archive(world.gateway.database, Jobs(world.store))
    assert await archive.keep(now() - timedelta(minutes=1)) == 0
    assert await archive.keep(now()) == 1
    assert await archive.keep(now()) == 0
    world.worker.jobs.forget(job_id)
    assert world.store.head(keys.log(job_id)) is None
    other = await world.completed()
    world.worker.jobs.forget(other)  # its row is about to go
    assert await archive.keep(now()) == 1
    assert world.store.head(keys.log(other)) is None


async def test_a_log_that_cannot_be_kept_holds_up_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.archive.AT_ONCE", 1)
    newer, job_id = [await world.completed() for _ in range(2)]
    verdict, etag = world.store.get(keys.final(newer))
    etag = world.store.replace(keys.final(newer), b'{"version": 99}', etag)
    archive, since = Archive(world.gateway.database, Jobs(world.store)), now()
    assert sorted([await archive.keep(since) for _ in range(3)]) == [0, 0, 1]
    assert world.store.head(keys.log(job_id)) is not None
    world.store.replace(keys.final(newer), verdict, etag)
    assert await archive.keep(now()) == 1


async def test_an_upload_that_is_refused_leaves_no_record(world: World) -> None:
    assert (await send(world, b"MZ\x00\x01", "a.exe")).status == 415
    first = await send(world, b"text", key="k")
    assert (await send(world, b"text", key="k")).status == first.status == 201
    (record,) = world.store.list("uploads/")
    file_id = (await first.json())["data"]["id"]
    assert record.key == keys.upload(file_id)
    body = {"file_type": "document", "dry_run": False}
    await world.client.post(f"{API}/files/cleanup", json=body, headers=world.headers())
    assert list(world.store.list("uploads/")) == []
