"""Job management: lists, logs, cancelling and deleting. Runs embedded here and on servers in integration."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway import lifecycle
from gateway.database import artifacts
from gateway.database import jobs as queries
from gateway.database.tables import jobs
from gateway.envelope import timestamp
from pipeline import keys
from pipeline.errors import BrokerError
from pipeline.jobs import Jobs
from pipeline.vocabulary import ArtifactRef, EventKind, Stage, Status, now
from tests.unit.gateway.fixtures import OpenWorld
from tests.unit.gateway.support import World, until
from tests.unit.gateway.test_api import UNKNOWN, error
from tests.unit.gateway.test_projection import make_projector

WATCHED = ("download", "stream", "stream?format=hls", "thumbnail")


async def post(world: World, path: str, user: str = "ada") -> Any:
    return await world.get(path, user, method="POST")


async def delete(world: World, job_id: str, user: str = "ada") -> Any:
    return await world.get(f"/jobs/{job_id}", user, method="DELETE")


async def dispatched(world: World, job_id: str) -> None:
    async def sent() -> bool | None:
        async with world.gateway.database.read() as connection:
            query = select(jobs.c.dispatched_at).where(jobs.c.id == job_id)
            return (await connection.execute(query)).scalar_one() is not None or None

    await until(sent)


async def logged(world: World, job_id: str, count: int) -> dict[str, Any]:
    async def there() -> dict[str, Any] | None:
        data = await world.data(f"/jobs/{job_id}/logs?limit=1000")
        return data if data["total_logs"] >= count else None

    return await until(there)


async def test_jobs_are_listed_in_pages_newest_first(world: World) -> None:
    mine = [await world.generate(prompt=f"p{n}") for n in range(5)]
    await world.generate("bob")
    data = await world.data("/jobs?items_per_page=2&page=2")
    assert [job["id"] for job in data["items"]] == mine[::-1][2:4]
    assert data["pagination"] == {
        "page": 2,
        "items_per_page": 2,
        "total_items": 5,
        "total_pages": 3,
        "has_next": True,
        "has_previous": True,
        "next_page": 3,
        "previous_page": 1,
    }
    assert data["items"][0] == await world.data(f"/jobs/{mine[2]}")
    ascending = await world.data("/jobs?sort=created_at")
    assert [job["id"] for job in ascending["items"]] == mine
    assert (await world.data("/jobs", "carol"))["items"] == []


async def test_lists_show_the_results_of_completed_jobs(world: World) -> None:
    job_id, _ = await world.completed(), await world.generate()
    (job,) = (await world.data("/jobs?status=completed"))["items"]
    assert job == await world.data(f"/jobs/{job_id}")
    assert job["result"]["file_size"] > 0
    assert (await world.data("/jobs?status=processing&type=video_generation"))["pagination"]["total_items"] == 1
    assert (await world.data("/jobs?status=failed"))["items"] == []


async def test_jobs_are_filtered_by_the_time_of_their_creation(world: World) -> None:
    old, new = await world.generate(), await world.generate()
    async with world.gateway.database.write() as connection:
        yesterday = now() - timedelta(days=1)
        await connection.execute(update(jobs).where(jobs.c.id == old).values(created_at=yesterday))
    limit = (now() - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    for name, expected in (("created_after", new), ("created_before", old)):
        assert [job["id"] for job in (await world.data(f"/jobs?{name}={limit}"))["items"]] == [expected]


async def test_the_shown_time_of_a_jobs_creation_is_within_both_bounds(world: World) -> None:
    """It is shown to the millisecond and kept to the microsecond."""
    await world.generate()
    at = datetime(2024, 1, 15, 10, 30, 0, 123987, UTC)
    async with world.gateway.database.write() as connection:
        await connection.execute(update(jobs).values(created_at=at))
    found = {}
    for bound in (timestamp(at), "2024-01-15T10:30:00.122Z", "2024-01-15", "9999-12-31T23:59:59.999999Z"):
        for name in ("created_after", "created_before"):
            found[name, bound] = (await world.data(f"/jobs?{name}={bound}"))["pagination"]["total_items"]
    assert list(found.values()) == [1, 1, 1, 0, 1, 0, 0, 1], found


async def test_wrong_filters_are_named_together(world: World) -> None:
    query = "page=0&items_per_page=101&status=done&type=x&created_after=now&sort=prompt"
    told = await error(await world.get(f"/jobs?{query}"), 400, "VALIDATION_ERROR")
    assert set(told["details"]) == {"page", "items_per_page", "status", "type", "created_after", "sort"}
    assert told["details"]["page"] == ["Page must be greater than 0"]


async def test_logs_tell_what_the_workers_did(world: World) -> None:
    job_id = await world.generate()
    await world.work(world.worker.render_half, job_id)
    await world.work(
        world.worker.tell, job_id, EventKind.LOG, Stage.RENDER, 2, level="WARNING", message="Busy. Trying again."
    )
    data = await logged(world, job_id, 3)
    assert (data["total_logs"], data["has_more"]) == (3, False)
    started, half, retry = data["logs"]
    assert started == {
        "timestamp": started["timestamp"],
        "level": "INFO",
        "message": "Rendering started",
        "details": {"step": "rendering", "progress": 0},
    }
    assert started["timestamp"].endswith("Z")
    assert (half["message"], half["details"]["progress"]) == ("Rendering step 12/24", 35)
    assert half["details"]["figures"] == {"step": 12, "steps": 24}
    assert (retry["level"], retry["message"], retry["details"]["progress"]) == ("WARNING", "Busy. Trying again.", 35)


async def test_logs_are_cut_and_filtered(world: World) -> None:
    job_id = await world.completed()
    everything = (await world.data(f"/jobs/{job_id}/logs"))["logs"]
    assert everything[-1]["message"] == "Job completed"
    first = await world.data(f"/jobs/{job_id}/logs?limit=3")
    assert (first["logs"], first["total_logs"], first["has_more"]) == (everything[:3], len(everything), True)
    rest = await world.data(f"/jobs/{job_id}/logs?offset=3&level=INFO")
    assert (rest["logs"], rest["has_more"]) == (everything[3:], False)
    assert await world.data(f"/jobs/{job_id}/logs?level=ERROR") == {"logs": [], "total_logs": 0, "has_more": False}
    told = await error(await world.get(f"/jobs/{job_id}/logs?limit=1001&offset=-1&level=x"), 400, "VALIDATION_ERROR")
    assert told["details"] == {
        "limit": ["Limit must be between 1 and 1000"],
        "offset": ["Offset must be 0 or greater"],
        "level": ["Invalid level. Must be one of: DEBUG, INFO, WARNING, ERROR"],
    }


async def test_a_waiting_job_that_is_cancelled_never_runs(world: World) -> None:
    first = [await world.generate() for _ in range(2)]  # as many as are dispatched at once
    for job_id in first:
        await dispatched(world, job_id)
    waiting = await world.generate()
    response = await post(world, f"/jobs/{waiting}/cancel")
    body = await response.json()
    assert (response.status, body["success"]) == (200, True)
    assert (body["data"]["id"], body["data"]["status"], body["data"]["progress"]) == (waiting, "cancelled", 0)
    for job_id in first:
        await world.work(world.worker.complete, job_id)
        await world.reached(job_id, "completed")
    await dispatched(world, await world.generate())  # the dispatcher was there
    async with world.gateway.database.read() as connection:
        row = (await connection.execute(select(jobs).where(jobs.c.id == waiting))).one()
    assert (row.dispatched_at, row.claimed_at, row.epoch) == (None, None, 0)
    assert (await world.data(f"/jobs/{waiting}"))["status"] == "cancelled"


async def test_a_running_job_that_is_cancelled_is_decided_and_its_workers_hurried(world: World) -> None:
    hurried: list[str] = []
    world.worker.publisher.on_cancel(hurried.append)
    job_id = await world.generate()
    await world.work(world.worker.render_half, job_id)
    await logged(world, job_id, 2)
    assert (await post(world, f"/jobs/{job_id}/cancel")).status == 200

    async def heard() -> list[str] | None:
        return hurried or None

    assert await until(heard) == [job_id]
    final = Jobs(world.store).final(job_id)
    assert final is not None
    assert (final.status, final.cancelled_by) == (Status.CANCELLED, "ada")
    await world.work(world.worker.tell, job_id, EventKind.CANCELLED, Stage.RENDER, 2)  # the worker noticed
    await world.work(world.worker.tell, job_id, EventKind.LOG, Stage.RENDER, 3, message="the end")
    lines = (await logged(world, job_id, 4))["logs"]
    assert [line["message"] for line in lines][2:] == ["Job was cancelled", "the end"], "one verdict in every log"


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
async def test_a_job_that_has_ended_says_so_when_it_is_cancelled(world: World, status: str) -> None:
    job_id = await world.generate()
    if status == "cancelled":
        await post(world, f"/jobs/{job_id}/cancel")
    else:
        await world.work(world.worker.complete if status == "completed" else world.worker.fail, job_id)
        await world.reached(job_id, status)
    told = await error(await post(world, f"/jobs/{job_id}/cancel"), 400, "VALIDATION_ERROR")
    assert status in told["message"]
    assert told["details"] == {"status": [f"Is {status}"]}


async def test_a_job_that_ends_while_it_is_cancelled_keeps_its_verdict(world: World) -> None:
    job_id = await world.generate()
    await world.work(world.worker.decide, job_id)  # decided, and nobody told the gateway
    told = await error(await post(world, f"/jobs/{job_id}/cancel"), 400, "VALIDATION_ERROR")
    assert told["details"] == {"status": ["Is completed"]}
    assert (await world.data(f"/jobs/{job_id}"))["result"] is not None


async def test_a_cancellation_does_not_wait_for_the_broker(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(job_id: str) -> None:
        raise BrokerError("The broker is away.")

    monkeypatch.setattr(world.gateway.control, "broadcast_cancel", away)
    job_id = await world.generate()
    assert (await post(world, f"/jobs/{job_id}/cancel")).status == 200


async def test_a_cancellation_whose_gateway_died_is_finished(world: World) -> None:
    job_id = await world.generate()
    async with world.gateway.database.write() as connection:
        await queries.begin_cancelling(connection, job_id)
    projector = make_projector(world.gateway.database, world.store)
    assert await projector.repair_once(now() - timedelta(minutes=1)) == 0
    assert await projector.repair_once(now() + timedelta(seconds=1)) == 1
    assert (await world.data(f"/jobs/{job_id}"))["status"] == "cancelled"
    assert (await world.data(f"/jobs/{job_id}/logs"))["logs"][-1]["message"] == "Job was cancelled"


async def test_simultaneous_cancellations_are_entered_once(open_world: OpenWorld) -> None:
    worlds = [await open_world(), await open_world()]
    job_id = await worlds[0].generate()
    answers = await asyncio.gather(*(post(worlds[n % 2], f"/jobs/{job_id}/cancel") for n in range(6)))
    assert {answer.status for answer in answers} <= {200, 400}
    assert 200 in {answer.status for answer in answers}
    assert [line["message"] for line in (await logged(worlds[0], job_id, 1))["logs"]] == ["Job was cancelled"]


async def test_deleting_removes_the_job_and_its_data(world: World) -> None:
    job_id = await world.completed()
    response = await delete(world, job_id)
    body = await response.json()
    assert (response.status, body["success"], body["data"]) == (200, True, {"id": job_id, "deleted": True})
    for path in (f"/jobs/{job_id}", f"/videos/{job_id}/download", f"/jobs/{job_id}/logs"):
        await error(await world.get(path), 404, "RESOURCE_NOT_FOUND")
    assert (await world.data("/jobs"))["items"] == []
    assert Jobs(world.store).present(job_id) == {keys.final(job_id)}
    final = Jobs(world.store).final(job_id)
    assert final is not None
    assert (final.status, final.artifacts, final.cancelled_by) == (Status.CANCELLED, (), None), "stops stragglers"
    await error(await delete(world, job_id), 404, "RESOURCE_NOT_FOUND")


@pytest.mark.parametrize("path", ["jobs/{}", *(f"videos/{{}}/{what}" for what in WATCHED)])
async def test_a_job_that_is_deleted_while_its_video_is_asked_for_is_404(
    world: World, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Between the two reads that an answer takes."""
    job_id, of_job = await world.completed(), artifacts.of_job

    async def too_late(connection: AsyncConnection, job_id: str) -> dict[str, ArtifactRef]:
        await lifecycle.delete(world.gateway, job_id)
        return await of_job(connection, job_id)

    monkeypatch.setattr(artifacts, "of_job", too_late)
    await error(await world.get(f"/{path.format(job_id)}"), 404, "RESOURCE_NOT_FOUND")


async def test_a_running_job_is_not_deleted(world: World) -> None:
    job_id = await world.generate()
    told = await error(await delete(world, job_id), 400, "VALIDATION_ERROR")
    assert told["details"] == {"status": ["Is processing"]}
    assert (await world.data(f"/jobs/{job_id}"))["status"] == "processing"
    await post(world, f"/jobs/{job_id}/cancel")
    assert (await delete(world, job_id)).status == 200


@pytest.mark.parametrize("what", ["GET /jobs/{}/logs", "POST /jobs/{}/cancel", "DELETE /jobs/{}"])
async def test_other_peoples_jobs_do_not_exist(world: World, what: str) -> None:
    method, path = what.split()
    theirs = await world.generate("bob")
    for job_id in (UNKNOWN, theirs):
        await error(await world.get(path.format(job_id), method=method), 404, "RESOURCE_NOT_FOUND")
    assert (await world.data(f"/jobs/{theirs}", "bob"))["status"] == "processing"
