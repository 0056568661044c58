"""What becomes of messages: order, retries, receivers that fail, hang, come back or are gone."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from sqlalchemy import func, select, update

from config.settings import Settings
from gateway.database import deliveries, webhooks
from gateway.database.tables import deliveries as table
from gateway.webhooks.messages import EVENTS
from gateway.webhooks.sender import Sender
from pipeline.vocabulary import EventKind, Stage, now
from tests.unit.gateway.fixtures import OpenWorld
from tests.unit.gateway.receivers import SECRET, Received, calling_here, running, verify_webhook
from tests.unit.gateway.support import World, until
from tests.unit.gateway.test_api import error
from tests.unit.gateway.test_webhooks import ended, listening, local_world, made, queued, send

__all__ = ["local_world"]


async def log_of(world: World, webhook_id: str) -> list[tuple[str, str]]:
    """Event and status of each delivery, oldest first."""
    data = await world.data(f"/webhooks/{webhook_id}/deliveries?items_per_page=100")
    return [(item["event"], item["status"]) for item in data["items"]][::-1]


async def all_ended(world: World) -> None:
    async def over() -> bool | None:
        async with world.gateway.database.read() as connection:
            return await deliveries.count_pending(connection) == 0 or None

    await until(over)


async def progress(world: World, job_id: str, n: int, fraction: float) -> None:
    await world.work(world.worker.tell, job_id, EventKind.PROGRESS, Stage.RENDER, n, fraction=fraction)


async def projected(world: World, job_id: str, percent: int) -> None:
    async def there() -> bool | None:
        return (await world.data(f"/videos/{job_id}/status"))["progress"] >= percent or None

    await until(there)


async def test_a_job_is_told_from_start_to_end(local_world: World) -> None:
    world = local_world
    async with running() as receiver:
        await listening(world, receiver, *EVENTS)
        await made(world, {"url": receiver.url + "/bobs"}, "bob")
        job_id = await world.generate()
        for n in range(15):
            await world.work(world.worker.tell, job_id, EventKind.STARTED, Stage.RENDER)
            await progress(world, job_id, n + 1, n / 14)
            await projected(world, job_id, int(n / 14 * 70))
            await all_ended(world)
        await world.work(world.worker.complete, job_id)
        await world.reached(job_id, "completed")
        await all_ended(world)
    assert {received.path for received in receiver.got} == {"/hook"}, "nobody else's receiver"
    events = receiver.events(job_id)
    assert events[:8] == ["job.started", *["job.progress"] * 7]
    steps = [received.payload["data"]["progress"] for received in receiver.got if received.event == "job.progress"]
    assert steps[:7] == [10, 20, 30, 40, 50, 60, 70]
    assert events[-1] == "job.completed"
    last = receiver.got[-1]
    assert set(last.payload) == {"event", "timestamp", "data"}
    base = f"http://127.0.0.1:{world.settings.gateway.port}/api/v1/videos/{job_id}"
    assert last.payload["data"] == {
        "job_id": job_id,
        "type": "video_generation",
        "status": "completed",
        "result": {
            "file_id": job_id.replace("job_", "video_"),
            "download_url": f"{base}/download",
            "thumbnail_url": f"{base}/thumbnail",
        },
    }
    assert all(verify_webhook(one.body, one.headers["x-t2m-signature"], SECRET) for one in receiver.got)


async def test_failed_and_cancelled_jobs_are_told(local_world: World) -> None:
    world = local_world
    async with running() as receiver:
        await listening(world, receiver, "job.failed", "job.cancelled")
        failed, cancelled = await world.generate(), await world.generate()
        await world.work(world.worker.fail, failed)
        await send(world, "POST", f"/jobs/{cancelled}/cancel")
        await receiver.reached(2)
    told = {received.job_id: received.payload for received in receiver.got}
    why = {"stage": "render", "code": "OutOfMemory", "message": "The GPU is full.", "remedy": "Ask for less."}
    assert (told[failed]["event"], told[failed]["data"]["error"]) == ("job.failed", why)
    assert (told[cancelled]["event"], told[cancelled]["data"]["status"]) == ("job.cancelled", "cancelled")


async def test_a_failing_receiver_gets_all_in_order_once_it_is_back(local_world: World) -> None:
    world = local_world
    async with running() as receiver:
        answers = iter([500, 503, 302])
        receiver.behave = lambda _: next(answers, 200)
        webhook_id = await listening(world, receiver)
        job_id = await world.completed()
        await all_ended(world)
    assert receiver.events(job_id) == [*["job.started"] * 4, "job.completed"]
    assert await log_of(world, webhook_id) == [("job.started", "delivered"), ("job.completed", "delivered")]
    ids = [received.headers["webhook-id"] for received in receiver.got]
    assert len(set(ids)) == 2, "an attempt repeated is known by its id"


async def test_progress_never_holds_back_what_comes_later(open_world: OpenWorld, settings: Settings) -> None:
    """It fails, and its next attempt is an hour away when the job ends."""
    world = await open_world(calling_here(settings, retries_s=(3600.0,)))
    async with running() as receiver:
        receiver.behave = lambda received: 500 if received.event == "job.progress" else 200
        webhook_id = await listening(world, receiver, *EVENTS)
        job_id = await world.generate()
        await world.work(world.worker.tell, job_id, EventKind.STARTED, Stage.RENDER)
        await progress(world, job_id, 1, 0.5)
        await receiver.reached(2)
        await world.work(world.worker.complete, job_id)
        await world.reached(job_id, "completed")
        await all_ended(world)
    assert receiver.events(job_id)[:2] == ["job.started", "job.progress"]
    assert receiver.events(job_id)[-1] == "job.completed"
    (first, *between, last) = await log_of(world, webhook_id)
    assert (first, last) == (("job.started", "delivered"), ("job.completed", "delivered"))
    assert set(between) == {("job.progress", "dropped")}


async def test_a_hanging_receiver_delays_no_other(open_world: OpenWorld, settings: Settings) -> None:
    world = await open_world(calling_here(settings, timeout_s=60.0))
    async with running() as hanging, running() as fast:
        forever = asyncio.Event()

        async def hang() -> int:
            await forever.wait()
            return 200

        hanging.behave = lambda _: hang()
        await listening(world, hanging)
        await listening(world, fast)
        began = time.monotonic()
        its = [await world.completed() for _ in range(8)]
        await fast.reached(16)
        assert all(fast.events(job_id) == ["job.started", "job.completed"] for job_id in its)
        assert time.monotonic() - began < world.settings.webhooks.timeout_s
        assert len(hanging.got) == world.settings.webhooks.per_receiver, "it is not flooded either"
        forever.set()
        await hanging.reached(16)
        assert all(hanging.events(job_id)[-1] == "job.completed" for job_id in its)


@pytest.mark.parametrize(("asked", "pause_s"), [("120", 120), ("7200", 3600), ("soon", 0.05)])
async def test_a_busy_receiver_says_when_to_come_back(local_world: World, asked: str, pause_s: float) -> None:
    """Up to an hour; what is no number of seconds is passed over."""
    world = local_world
    async with running() as receiver:
        receiver.behave, receiver.headers = lambda _: 503, {"Retry-After": asked}
        await listening(world, receiver, "job.started")
        job_id = await world.generate()
        await world.work(world.worker.tell, job_id, EventKind.STARTED, Stage.RENDER)
        (first, *_) = await receiver.reached(1)

        async def put_off() -> datetime | None:
            async with world.gateway.database.read() as connection:
                row = (await connection.execute(select(table.c.due_at, table.c.attempts))).one()
            return row.due_at if row.attempts else None

        due_at = await until(put_off)
        waits_s = (due_at - datetime.fromtimestamp(int(first.headers["webhook-timestamp"]), UTC)).total_seconds()
        assert pause_s - 1 <= waits_s <= 1.5 * pause_s + 30


async def test_no_answer_in_time_is_a_failure(open_world: OpenWorld, settings: Settings) -> None:
    world = await open_world(calling_here(settings, timeout_s=0.1, retries_s=()))
    async with running() as receiver:
        receiver.behave = lambda _: asyncio.sleep(1, 200)
        webhook_id = await listening(world, receiver)
        log = await ended(world, await queued(world, f"/webhooks/{webhook_id}/test"))
    assert log["status"] == "failed"
    assert log["attempts"][0]["error"] == "No answer within 0.1 s"
    assert log["attempts"][0]["response_status"] is None


async def test_what_always_fails_is_given_up_and_the_next_message_has_its_turn(local_world: World) -> None:
    world = local_world
    async with running() as receiver:
        receiver.behave = lambda received: 500 if received.event == "job.started" else 200
        webhook_id = await listening(world, receiver)
        job_id = await world.completed()
        await all_ended(world)
    assert receiver.events(job_id) == [*["job.started"] * 4, "job.completed"]
    assert await log_of(world, webhook_id) == [("job.started", "failed"), ("job.completed", "delivered")]


async def test_410_disables_the_webhook_until_its_owner_says_otherwise(local_world: World) -> None:
    world = local_world
    async with running() as receiver:
        receiver.behave = lambda _: 410
        path = f"/webhooks/{await listening(world, receiver)}"
        await world.completed()
        await all_ended(world)
        data = await world.data(path)
        assert (data["active"], data["disabled_reason"]) == (False, "The receiver answered 410 Gone")
        assert {status for _, status in await log_of(world, path.rpartition("/")[2])} == {"failed"}
        sent = len(receiver.got)
        assert sent == 1, "what waited behind it is given up"
        receiver.behave = lambda _: 200
        changed = await (await send(world, "PATCH", path, {"active": True})).json()
        assert changed["data"]["disabled_reason"] is None
        job_id = await world.completed()
        await receiver.reached(sent + 2)
    assert receiver.events(job_id) == ["job.started", "job.completed"]


async def test_a_receiver_inside_is_not_called_though_its_webhook_is_stored(
    local_world: World, open_world: OpenWorld, settings: Settings
) -> None:
    """Allowed when it was made, and no longer."""
    async with running() as receiver:
        webhook_id = await listening(local_world, receiver)
        await local_world.client.close()
        strict = await open_world(calling_here(settings, allowed_networks=(), retries_s=()))
        log = await ended(strict, await queued(strict, f"/webhooks/{webhook_id}/test"))
    assert log["attempts"][0]["error"] == "Not called: the address 127.0.0.1 is not allowed"
    assert receiver.got == []


async def test_a_deleted_webhook_takes_what_was_on_its_way_along(local_world: World) -> None:
    world = local_world
    async with running() as receiver:
        receiver.behave = lambda _: 500
        path = f"/webhooks/{await listening(world, receiver)}"
        await world.completed()
        await send(world, "DELETE", path)
        await all_ended(world)
    async with world.gateway.database.read() as connection:
        assert (await connection.execute(select(func.count()).select_from(table))).scalar_one() == 0


async def test_a_jobs_own_receiver_hears_of_that_job_only(local_world: World) -> None:
    world = local_world
    async with running() as receiver:
        mine, other = await world.generate(webhook_url=receiver.url), await world.generate()
        async with world.gateway.database.write() as connection:
            secret = await webhooks.user_secret(connection, "ada")
        for job_id in (other, mine):
            await world.work(world.worker.complete, job_id)
        await world.reached(mine, "completed")
        await all_ended(world)
        assert (await world.data("/webhooks"))["items"] == []
        (webhook,) = (await world.data(f"/webhooks?job_id={mine}"))["items"]
        rotated = await (await send(world, "POST", "/webhooks/job-secret/rotate")).json()
        await ended(world, await queued(world, f"/webhooks/{webhook['id']}/test"))
    assert receiver.events(mine)[0] == "job.started"
    assert receiver.events(mine)[-1] == "job.completed"
    assert receiver.events(other) == []
    first, last = receiver.got[0], receiver.got[-1]
    assert verify_webhook(first.body, first.headers["x-t2m-signature"], secret)
    assert verify_webhook(last.body, last.headers["x-t2m-signature"], rotated["data"]["secret"])
    assert verify_webhook(last.body, last.headers["x-t2m-signature-previous"], secret)


async def test_a_reused_job_is_told_to_the_receiver_it_was_asked_with(local_world: World) -> None:
    world = local_world
    async with running() as receiver:
        running_job = await world.generate(seed=1, reuse=True)
        joined = await world.generate(seed=1, reuse=True, webhook_url=f"{receiver.url}/joined")
        assert joined == running_job
        await world.work(world.worker.complete, running_job)
        await world.reached(running_job, "completed")
        shared = await world.generate(seed=1, reuse=True, webhook_url=f"{receiver.url}/shared")
        await all_ended(world)
    told = [(received.path, received.event, received.job_id) for received in receiver.got]
    without_progress = [one for one in told if one[1] != "job.progress"]
    assert sorted(without_progress, key=lambda one: one[0]) == [  # in order for each receiver only
        ("/hook/joined", "job.started", joined),
        ("/hook/joined", "job.completed", joined),
        ("/hook/shared", "job.completed", shared),
    ]


async def test_a_jobs_own_receiver_inside_is_refused_when_the_job_is_asked_for(world: World) -> None:
    for url in ("https://169.254.169.254/", "https://[::ffff:10.0.0.1]/", "http://receiver.example/"):
        body = {"prompt": "p", "webhook_url": url}
        told = await error(await send(world, "POST", "/videos/generate", body), 400, "VALIDATION_ERROR")
        assert list(told["details"]) == ["webhook_url"]


async def test_a_lost_lease_runs_out_and_the_message_is_sent_again(local_world: World) -> None:
    """As after a SIGKILL between the claim and the note of how it went."""
    world = local_world
    async with running() as receiver:
        webhook_id = await listening(world, receiver)
        async with world.gateway.database.write() as connection:
            delivery_id = await deliveries.add_alone(connection, webhook_id, "job.completed", '{"data": {}}')
            dead = update(table).where(table.c.id == delivery_id).values(leased_until=now())
            await connection.execute(dead)
        await receiver.reached(1)


async def test_several_senders_share_the_work_and_keep_the_order(open_world: OpenWorld, settings: Settings) -> None:
    several = [await open_world(calling_here(settings, retries_s=(0.01,) * 10)) for _ in range(3)]
    world = several[0]
    async with running() as receiver:
        seen: set[str] = set()

        def fail_at_first(received: Received) -> int:
            known = received.headers["webhook-id"] in seen
            seen.add(received.headers["webhook-id"])
            return 200 if known else 500

        receiver.behave = fail_at_first
        await listening(world, receiver)
        its = [await world.generate() for _ in range(10)]
        for job_id in its:
            await world.work(world.worker.complete, job_id)
        await all_ended(world)

        async def told() -> bool | None:
            return all("job.completed" in receiver.events(job_id) for job_id in its) or None

        await until(told)
        await all_ended(world)
    for job_id in its:
        assert receiver.events(job_id) == ["job.started"] * 2 + ["job.completed"] * 2


async def test_a_sender_leaves_what_is_under_way_to_others_when_it_stops(
    local_world: World, open_world: OpenWorld
) -> None:
    world = local_world
    async with running() as receiver:
        first = asyncio.Event()

        async def hang_once() -> int:
            if not first.is_set():
                first.set()
                await asyncio.sleep(60)
            return 200

        receiver.behave = lambda _: hang_once()
        webhook_id = await listening(world, receiver)
        await queued(world, f"/webhooks/{webhook_id}/test")
        await first.wait()
        other = await open_world(world.settings)
        await world.client.close()
        await all_ended(other)
        assert len(receiver.got) == 2


async def test_the_log_is_kept_for_so_long_and_no_longer(local_world: World) -> None:
    world = local_world
    async with running() as receiver:
        webhook_id = await listening(world, receiver)
        await ended(world, await queued(world, f"/webhooks/{webhook_id}/test"))
        async with world.gateway.database.write() as connection:
            assert await deliveries.forget(connection, now(), 10) == 1
        assert await log_of(world, webhook_id) == []


async def test_a_long_log_is_forgotten_in_parts(local_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world, unused = local_world, cast(Any, None)
    monkeypatch.setattr("gateway.webhooks.sender.FORGET_AT_ONCE", 2)
    async with running() as receiver:
        webhook_id = await listening(world, receiver)
    async with world.gateway.database.write() as connection:
        for _ in range(6):
            await deliveries.add_alone(connection, webhook_id, "job.completed", "{}")
        old = now() - timedelta(days=world.settings.webhooks.keep_days + 1)
        ended = update(table).values(status=deliveries.DeliveryStatus.DELIVERED, ended_at=old)
        await connection.execute(ended.where(table.c.id.in_(select(table.c.id).limit(5))))
        assert await deliveries.forget(connection, now(), 2) == 2
    await Sender(world.settings.webhooks, world.gateway.database, unused, unused, asyncio.Event())._forget()
    assert await log_of(world, webhook_id) == [("job.completed", "pending")]


@pytest.mark.parametrize("attempts", range(1, 12))
def test_pauses_last_a_day_with_jitter(attempts: int, settings: Settings) -> None:
    unused: Any = None
    sender = Sender(settings.webhooks, unused, unused, unused, asyncio.Event())
    retry_at = sender._retry_at(attempts, 0)
    pauses = settings.webhooks.retries_s
    assert 23 * 3600 < sum(pauses) < 25 * 3600
    if attempts > len(pauses):
        assert retry_at is None
    else:
        assert retry_at is not None
        pause_s = (retry_at - now()).total_seconds()
        assert pauses[attempts - 1] * 0.99 - 1 < pause_s <= pauses[attempts - 1] * 1.2
