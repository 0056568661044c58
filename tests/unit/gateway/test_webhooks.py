"""The endpoints of section "Webhooks". Runs embedded here and on servers in integration."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from aiohttp import ClientResponse
from sqlalchemy import select

from config.settings import Settings
from gateway import lifecycle
from gateway.database import deliveries, webhooks
from gateway.database.deliveries import Delivery
from gateway.database.tables import webhook_secrets
from gateway.database.webhooks import Webhook
from gateway.routes.webhooks import MAX_WEBHOOKS
from gateway.webhooks.messages import EVENTS
from pipeline.vocabulary import now
from tests.unit.gateway.fixtures import OpenWorld
from tests.unit.gateway.receivers import SECRET, Receiver, calling_here, running, verify_webhook
from tests.unit.gateway.support import API, PATIENCE_S, World, until
from tests.unit.gateway.test_api import error
from tests.unit.gateway.test_examples import curl

CURL = """
curl -X POST "https://api.example.com/api/v1/webhooks" \\
  -H "Authorization: Bearer your-token-here" \\
  -H "Content-Type: application/json" \\
  -d '{
    "url": "https://your-app.com/webhooks/t2m",
    "events": ["job.completed", "job.failed"],
    "secret": "your-webhook-secret"
  }'
"""
URL = "https://93.184.216.34/hook"
UNKNOWN = "webhook_0190163d8694739b8aea0006e1fd3b7b"
FIELDS = {"id", "job_id", "url", "events", "active", "disabled_reason", "created_at", "updated_at"}


async def send(world: World, method: str, path: str, body: Any = None, user: str = "ada") -> ClientResponse:
    return await world.client.request(method, API + path, headers=world.headers(user), json=body)


async def made(world: World, body: dict[str, Any], user: str = "ada") -> dict[str, Any]:
    response = await send(world, "POST", "/webhooks", body, user)
    assert response.status == 201, await response.text()
    return dict((await response.json())["data"])


async def queued(world: World, path: str, body: Any = None) -> dict[str, Any]:
    response = await send(world, "POST", path, body)
    assert response.status == 202, await response.text()
    return dict((await response.json())["data"])


async def ended(world: World, delivery: dict[str, Any]) -> dict[str, Any]:
    async def there() -> dict[str, Any] | None:
        data = await world.data(f"/webhooks/{delivery['webhook_id']}/deliveries/{delivery['id']}")
        return data if data["status"] != "pending" else None

    return await until(there)


async def listening(world: World, receiver: Receiver, *events: str) -> str:
    """A webhook of Ada's on that receiver; how much progress there is depends on timing, so it is left out at first."""
    wanted = events or [event for event in EVENTS if event != "job.progress"]
    return str((await made(world, {"url": receiver.url, "secret": SECRET, "events": list(wanted)}))["id"])


@pytest.fixture
async def local_world(open_world: OpenWorld, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> World:
    """A gateway that may call this machine, and looks often."""
    monkeypatch.setattr("gateway.webhooks.sender.POLL_S", 0.05)
    return await open_world(calling_here(settings))


async def test_the_curl_example(world: World) -> None:
    answer = json.loads(await curl(world, CURL))
    assert answer["success"] is True
    assert set(answer["data"]) == FIELDS | {"secret"}
    assert answer["data"]["events"] == ["job.completed", "job.failed"]
    assert answer["data"]["secret"] == SECRET


async def test_a_webhook_is_made_read_changed_and_deleted(world: World) -> None:
    webhook = await made(world, {"url": URL})
    path = f"/webhooks/{webhook['id']}"
    assert webhook["secret"].startswith("whsec_")
    assert webhook["events"] == list(EVENTS)
    assert await world.data(path) == {name: webhook[name] for name in FIELDS}, "the secret is never shown again"
    changed = await send(world, "PATCH", path, {"events": ["job.failed", "job.failed"], "active": False})
    assert (await changed.json())["data"]["events"] == ["job.failed"]
    data = await world.data(path)
    assert (data["url"], data["events"], data["active"]) == (URL, ["job.failed"], False)
    deleted = await (await send(world, "DELETE", path)).json()
    assert deleted["data"] == {"id": webhook["id"], "deleted": True}
    await error(await world.get(path), 404, "RESOURCE_NOT_FOUND")


async def test_webhooks_are_listed_in_pages_newest_first(world: World) -> None:
    mine = [(await made(world, {"url": f"{URL}/{n}"}))["id"] for n in range(3)]
    await made(world, {"url": URL}, "bob")
    data = await world.data("/webhooks?items_per_page=2")
    assert [webhook["id"] for webhook in data["items"]] == mine[:0:-1]
    assert (data["pagination"]["total_items"], data["pagination"]["has_next"]) == (3, True)
    assert all(set(webhook) == FIELDS for webhook in data["items"])


async def test_what_cannot_be_the_id_of_a_job_is_refused(world: World) -> None:
    for given in ("%00", "", "job_1"):
        told = await error(await world.get(f"/webhooks?job_id={given}"), 400, "VALIDATION_ERROR")
        assert set(told["details"]) == {"job_id"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "url"),
        ({"url": 7}, "url"),
        ({"url": "http://receiver.example/"}, "url"),
        ({"url": "https://169.254.169.254/latest/meta-data"}, "url"),
        ({"url": "https://ada:pw@receiver.example/"}, "url"),
        ({"url": URL, "events": []}, "events"),
        ({"url": URL, "events": ["job.exploded"]}, "events"),
        ({"url": URL, "events": "job.failed"}, "events"),
        ({"url": URL, "secret": "short"}, "secret"),
        ({"url": URL, "secret": "with spaces in the middle"}, "secret"),
        ({"url": URL, "secret": "line\r\nbreaks-in-a-header"}, "secret"),
        ({"url": URL, "colour": "red"}, "colour"),
    ],
)
async def test_what_is_no_webhook(world: World, body: dict[str, Any], field: str) -> None:
    told = await error(await send(world, "POST", "/webhooks", body), 400, "VALIDATION_ERROR")
    assert list(told["details"]) == [field]
    assert "pw" not in json.dumps(told)


async def test_a_change_is_checked_as_a_new_webhook_is(world: World) -> None:
    path = f"/webhooks/{(await made(world, {'url': URL}))['id']}"
    for body in ({"url": "https://10.0.0.1/"}, {"events": []}, {"active": "perhaps"}, {"secret": SECRET}):
        await error(await send(world, "PATCH", path, body), 400, "VALIDATION_ERROR")
    assert (await world.data(path))["url"] == URL


async def test_a_user_has_so_many_webhooks_and_no_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.routes.webhooks.MAX_WEBHOOKS", 2)
    assert MAX_WEBHOOKS == 50
    for n in range(2):
        await made(world, {"url": f"{URL}/{n}"})
    told = await error(await send(world, "POST", "/webhooks", {"url": URL}), 400, "VALIDATION_ERROR")
    assert told["details"] == {"limit": 2, "present": 2}
    await made(world, {"url": URL}, "bob")


PATHS = [
    ("GET", ""),
    ("PATCH", ""),
    ("DELETE", ""),
    ("POST", "/rotate-secret"),
    ("POST", "/test"),
    ("GET", "/deliveries"),
    ("GET", "/deliveries/delivery_0190163d8694739b8aea0006e1fd3b7b"),
    ("POST", "/deliveries/delivery_0190163d8694739b8aea0006e1fd3b7b/redeliver"),
]


async def test_another_users_webhook_looks_like_none(world: World) -> None:
    theirs = (await made(world, {"url": URL}, "bob"))["id"]
    for method, path in PATHS:
        for webhook_id in (theirs, UNKNOWN, "webhook_x", "%00", "..%2f"):
            response = await send(world, method, f"/webhooks/{webhook_id}{path}", {} if method != "GET" else None)
            await error(response, 404, "RESOURCE_NOT_FOUND")
    assert (await world.data(f"/webhooks/{theirs}", "bob"))["url"] == URL


async def test_a_test_message_is_signed_logged_and_sent_again_on_demand(local_world: World) -> None:
    world = local_world
    async with running() as receiver:
        path = f"/webhooks/{await listening(world, receiver)}"
        delivery = await queued(world, f"{path}/test", {"event": "job.failed"})
        log = await ended(world, delivery)
        again = await ended(world, await queued(world, f"{path}/deliveries/{delivery['id']}/redeliver"))
    first, second = receiver.got
    assert (log["status"], log["event"], log["job_id"]) == ("delivered", "job.failed", None)
    assert log["payload"] == first.payload
    assert first.payload["test"] is True
    (attempt,) = log["attempts"]
    assert (attempt["number"], attempt["response_status"], attempt["error"]) == (1, 200, None)
    assert verify_webhook(first.body, first.headers["x-t2m-signature"], SECRET)
    assert (first.path, first.headers["content-type"]) == ("/hook", "application/json")
    assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])
    assert (again["message_id"], again["id"] != log["id"]) == (log["message_id"], True)
    data = await world.data(f"{path}/deliveries?status=delivered&event=job.failed")
    assert [item["id"] for item in data["items"]] == [again["id"], log["id"]]
    assert (await world.data(f"{path}/deliveries?status=failed"))["pagination"]["total_items"] == 0
    await error(await world.get(f"{path}/deliveries?status=lost"), 400, "VALIDATION_ERROR")


async def test_for_a_day_after_a_rotation_both_secrets_sign(
    local_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = local_world
    async with running() as receiver:
        path = f"/webhooks/{await listening(world, receiver)}"
        answer = await (await send(world, "POST", f"{path}/rotate-secret")).json()
        await ended(world, await queued(world, f"{path}/test"))
        monkeypatch.setattr("gateway.database.deliveries.BOTH_SIGN", timedelta(0))
        await ended(world, await queued(world, f"{path}/test"))
    rotating, later = receiver.got
    new = answer["data"]["secret"]
    for received in receiver.got:
        assert verify_webhook(received.body, received.headers["x-t2m-signature"], new)
    assert verify_webhook(rotating.body, rotating.headers["x-t2m-signature-previous"], SECRET)
    assert len(rotating.headers["webhook-signature"].split()) == 2
    assert "x-t2m-signature-previous" not in later.headers
    assert len(later.headers["webhook-signature"].split()) == 1


async def rotated(world: World, path: str) -> tuple[str, str]:
    """The new secret, and until when the one before signs."""
    data = (await (await send(world, "POST", f"{path}/rotate-secret")).json())["data"]
    return data["secret"], data["previous_signs_until"]


async def test_a_rotation_whose_answer_was_lost_is_repeated(
    local_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The secret that receivers hold goes on signing, until a day after the first."""
    world = local_world
    async with running() as receiver:
        path = f"/webhooks/{await listening(world, receiver)}"
        (_, until), (second, still_until) = await rotated(world, path), await rotated(world, path)
        assert until == still_until
        assert timedelta(hours=23) < datetime.fromisoformat(until) - now() <= timedelta(hours=24)
        await ended(world, await queued(world, f"{path}/test"))
        monkeypatch.setattr("gateway.database.webhooks.BOTH_SIGN", timedelta(0))
        third, _ = await rotated(world, path)
        await ended(world, await queued(world, f"{path}/test"))
    for received, new, old in zip(receiver.got, (second, third), (SECRET, second), strict=True):
        assert verify_webhook(received.body, received.headers["x-t2m-signature"], new)
        assert verify_webhook(received.body, received.headers["x-t2m-signature-previous"], old)


async def test_the_secret_of_single_jobs_is_rotated_alike(world: World) -> None:
    """A repeated rotation does not prolong the time of the secret before it."""
    database, kept = world.gateway.database, select(webhook_secrets)
    async with database.write() as connection:
        held = await webhooks.user_secret(connection, "ada")
    rows = []
    for _ in range(2):
        await send(world, "POST", "/webhooks/job-secret/rotate")
        async with database.read() as connection:
            rows.append((await connection.execute(kept)).one())
    first, second = rows
    assert (first.previous_secret, second.previous_secret) == (held, held)
    assert first.secret != second.secret
    assert first.rotated_at == second.rotated_at


async def test_an_inactive_webhook_sends_nothing(local_world: World) -> None:
    world = local_world
    async with running() as receiver:
        path = f"/webhooks/{await listening(world, receiver)}"
        await send(world, "PATCH", path, {"active": False})
        told = await error(await send(world, "POST", f"{path}/test"), 400, "VALIDATION_ERROR")
        assert told["details"] == {"active": False, "disabled_reason": None}
        await world.completed()
        assert (await world.data(f"{path}/deliveries"))["items"] == []
    assert receiver.got == []


async def test_what_is_deleted_while_a_message_is_asked_for_is_404(
    local_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading what is to be sent and putting it on its way."""
    world = local_world
    async with running() as receiver:
        webhook_id = await listening(world, receiver)
        job_id = await world.completed()
        await receiver.reached(2)
        (delivery, _) = (await world.data(f"/webhooks/{webhook_id}/deliveries"))["items"]
    found, found_delivery = webhooks.find, deliveries.find

    async def and_then_the_job_goes(*asked: Any) -> Delivery | None:
        delivery = await found_delivery(*asked)
        await lifecycle.delete(world.gateway, job_id)
        return delivery

    async def and_then_it_goes(*asked: Any) -> Webhook | None:
        webhook = await found(*asked)
        async with world.gateway.database.write() as connection:
            await webhooks.remove(connection, webhook_id, "ada")
        return webhook

    monkeypatch.setattr(deliveries, "find", and_then_the_job_goes)
    path = f"/webhooks/{webhook_id}/deliveries/{delivery['id']}/redeliver"
    told = await error(await send(world, "POST", path), 404, "RESOURCE_NOT_FOUND")
    assert told["message"] == "Delivery not found"
    monkeypatch.setattr(webhooks, "find", and_then_it_goes)
    told = await error(await send(world, "POST", f"/webhooks/{webhook_id}/test", {}), 404, "RESOURCE_NOT_FOUND")
    assert told["message"] == "Webhook not found"


async def test_secrets_are_in_no_log(local_world: World, capfd: pytest.CaptureFixture[str]) -> None:
    world = local_world
    async with running() as receiver:
        path = f"/webhooks/{await listening(world, receiver)}"
        answer = await (await send(world, "POST", f"{path}/rotate-secret")).json()
        await ended(world, await queued(world, f"{path}/test"))
    written = ""
    async with asyncio.timeout(PATIENCE_S):  # the delivery is entered before it is logged
        while "webhook" not in written:
            await asyncio.sleep(0.01)
            written += "".join(capfd.readouterr())
    assert SECRET not in written
    assert answer["data"]["secret"] not in written
