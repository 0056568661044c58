"""What may be asked of a job, requests that are sent again, and jobs that answer for others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import aiohttp
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from config.settings import LimitSettings, Settings
from gateway import housekeeping
from gateway.acceptance import MAX_RECEIVERS
from gateway.database import jobs as rows
from gateway.database.tables import idempotency_keys, jobs
from gateway.validation import MAX_DEPTH
from pipeline import keys
from pipeline.jobs import Jobs
from pipeline.vocabulary import now
from tests.unit.gateway.fixtures import OpenWorld
from tests.unit.gateway.support import API, World, content
from tests.unit.gateway.test_api import error
from tests.unit.gateway.test_jobs import delete, dispatched, post

SUNSET = {"prompt": "A beautiful sunset over mountains"}
HOOK = "https://93.184.216.34/hook"


async def ask(world: World, body: Any = SUNSET, user: str = "ada", key: str | None = None) -> aiohttp.ClientResponse:
    headers = world.headers(user) | ({} if key is None else {"Idempotency-Key": key})
    return await world.client.post(f"{API}/videos/generate", json=body, headers=headers)


async def asked(world: World, **body: Any) -> dict[str, Any]:
    response = await ask(world, SUNSET | body)
    answer = await response.json()
    assert response.status == 202, answer
    return dict(answer["data"])


async def test_what_is_nested_as_deep_as_may_be_is_shown_again(world: World) -> None:
    metadata: dict[str, Any] = {}
    for _ in range(MAX_DEPTH - 2):  # the body and the innermost object count
        metadata = {"a": metadata}
    job_id = (await asked(world, metadata=metadata))["job_id"]
    assert (await world.data("/jobs"))["items"][0]["parameters"]["metadata"] == metadata
    assert (await world.data(f"/jobs/{job_id}"))["parameters"]["metadata"] == metadata


async def count(world: World) -> int:
    async with world.gateway.database.read() as connection:
        return int((await connection.execute(select(func.count()).select_from(jobs))).scalar_one())


async def test_everything_that_is_asked_is_kept_and_shown(world: World) -> None:
    body = {
        "negative_prompt": "rain",
        "model": "tiny",
        "seed": 7,
        "fps": 30,
        "aspect_ratio": "16:9",
        "steps": 3,
        "guidance": 2.5,
        "webhook_url": "https://example.com/hook",
        "metadata": {"order": 17, "tags": ["a", "ä"]},
        "priority": "high",
        "expires_in": 3600,
        "duration": 2,
        "quality": "720p",
    }
    job_id = (await asked(world, **body))["job_id"]
    parameters = (await world.data(f"/jobs/{job_id}"))["parameters"]
    assert parameters == SUNSET | body
    stored = world.stored_request(job_id)
    assert (stored.metadata, stored.priority, stored.webhook_url) == (body["metadata"], "high", body["webhook_url"])


async def test_a_request_sent_again_gets_the_first_answer(world: World) -> None:
    first = await ask(world, key="k-1")
    again = await ask(world, key="k-1")
    assert (first.status, again.status) == (202, 202)
    assert await first.json() == await again.json()
    assert first.headers["Location"] == again.headers["Location"]
    assert ("Idempotent-Replayed" in first.headers, again.headers["Idempotent-Replayed"]) == (False, "true")
    assert await count(world) == 1
    for other in (await ask(world, key="k-2"), await ask(world, user="bob", key="k-1"), await ask(world)):
        assert "Idempotent-Replayed" not in other.headers
    assert await count(world) == 4


async def test_a_key_is_not_used_for_two_things(world: World) -> None:
    await ask(world, key="k-1")
    told = await error(await ask(world, {"prompt": "another"}, key="k-1"), 400, "VALIDATION_ERROR")
    assert list(told["details"]) == ["Idempotency-Key"]
    assert await count(world) == 1


async def test_a_refused_request_leaves_its_key_free(world: World) -> None:
    await error(await ask(world, {"prompt": ""}, key="k-1"), 400, "VALIDATION_ERROR")
    assert (await ask(world, key="k-1")).status == 202


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "ä"])
async def test_a_malformed_key_is_refused(world: World, key: str) -> None:
    told = await error(await ask(world, key=key), 400, "VALIDATION_ERROR")
    assert list(told["details"]) == ["Idempotency-Key"]


async def test_simultaneous_requests_with_one_key_make_one_job(open_world: OpenWorld) -> None:
    worlds = [await open_world(), await open_world()]
    answers = await asyncio.gather(*(ask(worlds[n % 2], key="k-1") for n in range(8)))
    assert {answer.status for answer in answers} == {202}
    (job_id,) = {(await answer.json())["data"]["job_id"] for answer in answers}
    assert await count(worlds[0]) == 1
    stored = {info.key for info in worlds[0].store.list("jobs/")}
    assert stored == {keys.request(job_id)}, "what the others had prepared is gone"


async def test_a_request_that_is_sent_twice_at_once_takes_one_place_of_the_limit(
    open_world: OpenWorld, settings: Settings
) -> None:
    world = await open_world(settings.model_copy(update={"limits": LimitSettings(jobs=1)}))
    answers = await asyncio.gather(*(ask(world, key="k-1") for _ in range(8)))
    assert {answer.status for answer in answers} == {202}
    assert await count(world) == 1


async def age(world: World, since: timedelta) -> None:
    async with world.gateway.database.write() as connection:
        await connection.execute(update(idempotency_keys).values(created_at=now() - since))


async def test_keys_are_forgotten_after_a_day(world: World) -> None:
    first = (await (await ask(world, key="k-1")).json())["data"]["job_id"]
    await age(world, timedelta(hours=23, minutes=59))
    assert (await (await ask(world, key="k-1")).json())["data"]["job_id"] == first
    await age(world, timedelta(hours=24))
    second = (await (await ask(world, {"prompt": "another"}, key="k-1")).json())["data"]["job_id"]
    assert first != second
    await age(world, timedelta(hours=24))
    await housekeeping.expire(world.gateway)
    async with world.gateway.database.read() as connection:
        assert (await connection.execute(select(func.count()).select_from(idempotency_keys))).scalar_one() == 0


async def finished(world: World, **body: Any) -> str:
    job_id = str((await asked(world, **body))["job_id"])
    await world.work(world.worker.complete, job_id)
    await world.reached(job_id, "completed")
    return job_id


async def test_an_identical_request_shares_the_files_of_a_completed_job(world: World) -> None:
    source = await finished(world, seed=5)
    answer = await asked(world, seed=5, reuse=True)
    assert (answer["status"], answer["progress"], answer["reused"]) == ("completed", 100, True)
    copy = answer["job_id"]
    assert copy != source
    job = await world.data(f"/jobs/{copy}")
    assert (job["status"], job["reused_from"], job["parameters"]["seed"]) == ("completed", source, 5)
    assert (await world.data(f"/videos/{copy}/metadata"))["job_id"] == copy
    assert (await delete(world, source)).status == 200
    response = await world.get(f"/videos/{copy}/download")
    assert await response.read() == content(source, "1080p.mp4"), "each lives without the other"
    assert [line["message"] for line in (await world.data(f"/jobs/{copy}/logs"))["logs"]] == ["Job completed"]
    async with world.gateway.database.read() as connection:
        row = (await connection.execute(select(jobs).where(jobs.c.id == copy))).one()
    assert (row.epoch, row.dispatched_at) == (0, None), "nothing was rendered"


async def test_an_identical_request_joins_the_running_job(world: World) -> None:
    source = (await asked(world, seed=5))["job_id"]
    answers = [await asked(world, seed=5, reuse=True) for _ in range(2)]
    assert [(answer["job_id"], answer["status"], answer["reused"]) for answer in answers] == [
        (source, "processing", True)
    ] * 2
    async with world.gateway.database.read() as connection:
        assert (await connection.execute(select(jobs.c.joined))).scalar_one() == 2
    page = await (await world.client.get("/metrics")).text()
    assert 't2m_jobs_reused_total{how="joined"} 2.0' in page


async def receivers(world: World, job_id: str) -> list[str]:
    """The newest first."""
    return [webhook["url"] for webhook in (await world.data(f"/webhooks?job_id={job_id}"))["items"]]


async def test_a_receiver_hears_once_however_often_its_request_joins(open_world: OpenWorld) -> None:
    worlds = [await open_world(), await open_world()]
    source = (await asked(worlds[0], seed=5))["job_id"]
    body = {"seed": 5, "reuse": True, "webhook_url": HOOK}
    answers = await asyncio.gather(*(asked(worlds[n % 2], **body) for n in range(8)))
    assert {answer["job_id"] for answer in answers} == {source}
    await asked(worlds[0], **body | {"webhook_url": f"{HOOK}/other"})
    assert await receivers(worlds[0], source) == [f"{HOOK}/other", HOOK]


async def test_a_job_has_so_many_receivers_and_no_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.acceptance.MAX_RECEIVERS", 2)
    assert MAX_RECEIVERS == 10
    bodies = [{"seed": 5, "reuse": True, "webhook_url": f"{HOOK}/{n}"} for n in range(3)]
    (source, joined) = [(await asked(world, **body))["job_id"] for body in bodies[:2]]
    told = await error(await ask(world, SUNSET | bodies[2], key="k-1"), 400, "VALIDATION_ERROR")
    assert told["details"] == {"webhook_url": ["The identical job that is running has 2 receivers already"]}
    assert (await asked(world, **bodies[1]))["job_id"] == joined == source
    assert await receivers(world, source) == [f"{HOOK}/1", f"{HOOK}/0"]
    async with world.gateway.database.read() as connection:
        assert (await connection.execute(select(jobs.c.joined))).scalar_one() == 2, "who was refused has not joined"


async def test_what_differs_is_not_reused(world: World) -> None:
    source = await finished(world, seed=5)
    for other in ({"seed": 6}, {"seed": 5, "steps": 3}, {"seed": 5, "quality": "720p"}, {"seed": 5, "prompt": "x"}):
        assert (await asked(world, reuse=True, **other))["reused"] is False
    assert (await asked(world, seed=5))["reused"] is False, "only who asks for it"
    theirs = await (await ask(world, SUNSET | {"seed": 5, "reuse": True}, user="bob")).json()
    assert theirs["data"]["reused"] is False
    await delete(world, source)


async def test_a_request_without_a_seed_takes_any(world: World) -> None:
    source = await finished(world)
    copy = await asked(world, reuse=True)
    assert copy["reused"] is True
    seeds = {(await world.data(f"/jobs/{job_id}"))["parameters"]["seed"] for job_id in (source, copy["job_id"])}
    assert len(seeds) == 1


@pytest.mark.parametrize("end", ["failed", "cancelled"])
async def test_a_job_that_gave_no_video_is_not_reused(world: World, end: str) -> None:
    job_id = (await asked(world, seed=5))["job_id"]
    if end == "failed":
        await world.work(world.worker.fail, job_id)
        await world.reached(job_id, "failed")
    else:
        await post(world, f"/jobs/{job_id}/cancel")
    assert (await asked(world, seed=5, reuse=True))["reused"] is False


async def test_reuse_and_a_key_go_together(world: World) -> None:
    await finished(world, seed=5)
    body = SUNSET | {"seed": 5, "reuse": True}
    answers = [await (await ask(world, body, key="k-1")).json() for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0]["data"]["reused"] is True
    assert await count(world) == 2


async def test_priority_orders_a_users_own_jobs(world: World) -> None:
    filling = [await world.generate() for _ in range(2)]
    for job_id in filling:
        await dispatched(world, job_id)
    low, normal, high = [(await asked(world, priority=priority))["job_id"] for priority in ("low", "normal", "high")]
    theirs = await world.generate("bob")
    for job_id in (*filling, theirs, high, normal, low):
        await dispatched(world, job_id)
        await world.work(world.worker.complete, job_id)
    sent, order = world.broker.consume("render.tiny"), []
    for message in islice(sent, 6):
        assert message is not None
        order.append(message.args[0]["job_id"])
        sent.ack(message)
    assert [job_id for job_id in order if job_id in (high, normal, low)] == [high, normal, low]
    assert order.index(theirs) < order.index(normal), "priority takes nothing from others"


@pytest.mark.parametrize(
    ("days", "expires_in", "kept_s"),
    [(None, None, None), (None, 90, 90), (1, None, 86400), (1, 90, 90), (1, 999999, 86400)],
)
async def test_a_job_is_kept_as_long_as_it_and_the_deployment_allow(
    open_world: OpenWorld, settings: Settings, days: float | None, expires_in: int | None, kept_s: int | None
) -> None:
    gateway = settings.gateway.model_copy(update={"retention_days": days})
    world = await open_world(settings.model_copy(update={"gateway": gateway}))
    job_id = await world.generate(expires_in=expires_in)
    assert (await world.data(f"/videos/{job_id}/status"))["expires_at"] is None
    await world.work(world.worker.complete, job_id)
    await world.reached(job_id, "completed")
    job = await world.data(f"/jobs/{job_id}")
    if kept_s is None:
        assert job["expires_at"] is None
    else:
        ended, expires = (datetime.fromisoformat(job[name]) for name in ("completed_at", "expires_at"))
        assert expires - ended == timedelta(seconds=kept_s)


async def test_the_safety_hook_is_asked_before_a_job_is_queued(open_world: OpenWorld, settings: Settings) -> None:
    safety = settings.safety.model_copy(update={"hook": "tests.safety_hook:Hook"})
    world = await open_world(settings.model_copy(update={"safety": safety}))
    told = await error(await ask(world, {"prompt": "bad prompt"}), 400, "VALIDATION_ERROR")
    assert told["details"] == {"prompt": ["Not this prompt."]}
    await error(await ask(world, {"prompt": "broken hook"}), 503, "SERVICE_UNAVAILABLE")
    assert list(world.store.list("jobs/")) == []
    assert (await ask(world)).status == 202
    assert await count(world) == 1


async def test_expired_jobs_are_removed_with_their_data(world: World) -> None:
    kept, expired = await finished(world), await finished(world, expires_in=60)
    assert await housekeeping.expire(world.gateway) == (0, 0)
    async with world.gateway.database.write() as connection:
        await connection.execute(update(jobs).where(jobs.c.id == expired).values(expires_at=now()))
    assert await housekeeping.expire(world.gateway) == (1, 0)
    await error(await world.get(f"/jobs/{expired}"), 404, "RESOURCE_NOT_FOUND")
    assert Jobs(world.store).present(expired) == {keys.final(expired)}
    assert (await world.data(f"/jobs/{kept}"))["status"] == "completed"


async def test_what_could_not_be_entered_leaves_nothing_and_what_may_be_promised_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that stays would be rendered after a rebuild, though its client was told 503."""
    real = world.gateway.database.write

    async def away(*_: object, **__: object) -> None:
        raise OSError("The database is away.")

    @asynccontextmanager
    async def unanswered() -> AsyncIterator[AsyncConnection]:
        async with real() as connection:
            yield connection
        raise OSError("The connection broke.")

    with monkeypatch.context() as patch:
        patch.setattr(rows, "add", away)
        await error(await ask(world), 503, "SERVICE_UNAVAILABLE")
    assert list(world.store.list("jobs/")) == []
    with monkeypatch.context() as patch:
        patch.setattr(world.gateway.database, "write", unanswered)
        await error(await ask(world), 503, "SERVICE_UNAVAILABLE")
    (job,) = (await world.data("/jobs"))["items"]
    assert [info.key for info in world.store.list("jobs/")] == [f"jobs/{job['id']}/request.json"]
