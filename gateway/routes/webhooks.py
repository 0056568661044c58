"""Section "Webhooks"."""

from __future__ import annotations

import json
from typing import Annotated, Any

from aiohttp import web
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool
from sqlalchemy.exc import IntegrityError
from typing_extensions import TypedDict

from gateway import ids, pagination
from gateway.access import requires
from gateway.auth.base import Permission
from gateway.context import GATEWAY, PRINCIPAL
from gateway.contract import operation
from gateway.database import deliveries, webhooks
from gateway.database.deliveries import Attempt, Delivery, DeliveryStatus
from gateway.database.webhooks import Webhook
from gateway.envelope import Success, Time, success, timestamp
from gateway.errors import ApiError, Code, invalid, not_found
from gateway.links import link
from gateway.pagination import Listing, Paged
from gateway.parameters import OneOf
from gateway.routes.jobs import Deleted
from gateway.webhooks import messages
from gateway.webhooks.guard import MAX_URL
from gateway.webhooks.messages import EVENTS, WebhookEvent
from gateway.webhooks.signing import new_secret
from pipeline.requests import RECEIVER

routes = web.RouteTableDef()

MAX_WEBHOOKS = 50
"""Webhooks a user may have, beside those of single jobs."""


def _unique(events: list[WebhookEvent]) -> list[WebhookEvent]:
    return list(dict.fromkeys(events))


Events = Annotated[list[WebhookEvent], Field(min_length=1, max_length=100), AfterValidator(_unique)]
Secret = Annotated[str, Field(min_length=16, max_length=128, pattern=r"^[\x21-\x7e]+$")]
"""Printable ASCII without spaces, so that it can be written into a receiver's configuration as it is."""
Url = Annotated[str, Field(json_schema_extra=RECEIVER | {"maxLength": MAX_URL})]


class Body(BaseModel):
    """Base of what these endpoints take."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NewWebhook(Body):
    """Whom to tell of what; without a secret one is made."""

    url: Url
    events: Events = Field(default_factory=lambda: list(WebhookEvent))
    secret: Secret | None = None


class WebhookChange(Body):
    """What to change; the rest stays."""

    url: Url | None = None
    events: Events | None = None
    active: StrictBool | None = None


class NewSecret(Body):
    """A secret of the user's choice; without one it is made."""

    secret: Secret | None = None


class Test(Body):
    """Which message to try with."""

    event: WebhookEvent = WebhookEvent.COMPLETED


class WebhooksQuery(Paged):
    """Whether to list the webhook of one job, instead of those for all jobs."""

    job_id: Annotated[str, Field(pattern=f"^{ids.FORMS['job_id']}$")] | None = None


class DeliveriesQuery(Paged):
    """Which deliveries to list."""

    status: Annotated[str, OneOf(tuple(DeliveryStatus))] | None = None
    event: Annotated[str, OneOf(EVENTS)] | None = None


class WebhookView(TypedDict):
    """A webhook; one with a `job_id` is told of that job only."""

    id: str
    job_id: str | None
    url: str
    events: list[str]
    active: bool
    disabled_reason: str | None
    created_at: Time
    updated_at: Time


class CreatedWebhook(WebhookView):
    """A new webhook with its secret, which is never shown again."""

    secret: str


class RotatedJobSecret(TypedDict):
    """The new secret, which is never shown again, and until when the previous one signs beside it."""

    secret: str
    previous_signs_until: Time


class RotatedSecret(RotatedJobSecret):
    """A webhook's new secret, which is never shown again."""

    id: str


class AttemptView(TypedDict):
    """One try of a delivery: `error` is null when it was delivered, `response_status` without an answer."""

    number: int
    at: Time
    seconds: float
    response_status: int | None
    error: str | None


class DeliveryView(TypedDict):
    """A message to a webhook; the same `message_id` means the same message."""

    id: str
    message_id: str
    webhook_id: str
    job_id: str | None
    event: str
    status: DeliveryStatus
    created_at: Time
    next_attempt_at: Time | None
    ended_at: Time | None
    attempts: list[AttemptView]


class DeliveryDetails(DeliveryView):
    """A delivery with what is sent."""

    payload: dict[str, Any]


@routes.post("/webhooks")
@requires(Permission.GENERATE_VIDEOS)
@operation(status=201)
async def create(request: web.Request, body: NewWebhook) -> Success[CreatedWebhook]:
    """Be told of all jobs of the user. The secret is shown in this answer only."""
    gateway, user_id = request.app[GATEWAY], request[PRINCIPAL].user_id
    await _require_allowed(request, body.url)
    secret = body.secret or new_secret()
    async with gateway.database.write() as connection:
        await gateway.database.lock(connection, f"webhooks:{user_id}")
        _, present = await webhooks.page(connection, user_id, pagination.Page(size=1))
        if present >= MAX_WEBHOOKS:
            details = {"limit": MAX_WEBHOOKS, "present": present}
            raise ApiError(Code.VALIDATION_ERROR, f"A user may have {MAX_WEBHOOKS} webhooks", details)
        webhook = await webhooks.add(connection, user_id, body.url, body.events, secret)
    location = link(gateway.settings, f"/webhooks/{webhook.id}")
    data: CreatedWebhook = {**_view(webhook), "secret": secret}
    return success(data, "Webhook created", status=201, headers={"Location": location})


@routes.get("/webhooks")
@operation()
async def listing(request: web.Request, query: WebhooksQuery) -> Success[Listing[WebhookView]]:
    """The user's webhooks, or with `job_id` that of one job."""
    page = query.wanted
    async with request.app[GATEWAY].database.read() as connection:
        found, total = await webhooks.page(connection, request[PRINCIPAL].user_id, page, query.job_id)
    return success(pagination.paginated([_view(webhook) for webhook in found], page, total))


@routes.post("/webhooks/job-secret/rotate")
@requires(Permission.GENERATE_VIDEOS)
@operation()
async def rotate_job_secret(request: web.Request, body: NewSecret) -> Success[RotatedJobSecret]:
    """A new secret for the `webhook_url` of all the user's jobs; see the rotation of a webhook's own secret."""
    secret = body.secret or new_secret()
    async with request.app[GATEWAY].database.write() as connection:
        until = await webhooks.rotate_user_secret(connection, request[PRINCIPAL].user_id, secret)
    return success({"secret": secret, "previous_signs_until": timestamp(until)}, "Secret rotated")


@routes.get("/webhooks/{webhook_id}")
@operation()
async def details(request: web.Request) -> Success[WebhookView]:
    """One webhook."""
    return success(_view(await _owned(request)))


@routes.patch("/webhooks/{webhook_id}")
@requires(Permission.GENERATE_VIDEOS)
@operation()
async def change(request: web.Request, body: WebhookChange) -> Success[WebhookView]:
    """Change URL, events, or whether it is called."""
    gateway, webhook = request.app[GATEWAY], await _owned(request)
    if body.url is not None:
        await _require_allowed(request, body.url)
    values = body.model_dump(mode="json", exclude_none=True)
    async with gateway.database.write() as connection:
        changed = await webhooks.change(connection, webhook.id, request[PRINCIPAL].user_id, values)
    if changed is None:
        raise not_found("Webhook", webhook.id)
    gateway.due.set()
    return success(_view(changed), "Webhook updated")


@routes.delete("/webhooks/{webhook_id}")
@requires(Permission.GENERATE_VIDEOS)
@operation()
async def delete(request: web.Request) -> Success[Deleted]:
    """Delete a webhook with its delivery log; nothing is sent to it any more."""
    webhook = await _owned(request)
    async with request.app[GATEWAY].database.write() as connection:
        await webhooks.remove(connection, webhook.id, request[PRINCIPAL].user_id)
    return success({"id": webhook.id, "deleted": True}, "Webhook deleted")


@routes.post("/webhooks/{webhook_id}/rotate-secret")
@requires(Permission.GENERATE_VIDEOS)
@operation()
async def rotate_secret(request: web.Request, body: NewSecret) -> Success[RotatedSecret]:
    """A new secret; the present one signs beside it for a day, within which another rotation replaces the new one."""
    webhook = await _owned(request)
    secret = body.secret or new_secret()
    async with request.app[GATEWAY].database.write() as connection:
        until = await webhooks.rotate(connection, webhook.id, request[PRINCIPAL].user_id, secret)
    if until is None:
        raise not_found("Webhook", webhook.id)
    data: RotatedSecret = {"id": webhook.id, "secret": secret, "previous_signs_until": timestamp(until)}
    return success(data, "Secret rotated")


@routes.post("/webhooks/{webhook_id}/test")
@requires(Permission.GENERATE_VIDEOS)
@operation(status=202)
async def test(request: web.Request, body: Test) -> Success[DeliveryView]:
    """Send an example message, as any other: signed, logged, tried again."""
    webhook = await _active(request)
    sample = messages.sample(request.app[GATEWAY].settings, body.event)
    return await _send(request, webhook, body.event, sample)


@routes.get("/webhooks/{webhook_id}/deliveries")
@operation()
async def log(request: web.Request, query: DeliveriesQuery) -> Success[Listing[DeliveryView]]:
    """What was sent to a webhook, or is about to be, the newest first."""
    webhook, page = await _owned(request), query.wanted
    async with request.app[GATEWAY].database.read() as connection:
        found, total = await deliveries.page(connection, webhook.id, page, query.status, query.event)
    return success(pagination.paginated([_delivery_view(delivery) for delivery in found], page, total))


@routes.get("/webhooks/{webhook_id}/deliveries/{delivery_id}")
@operation()
async def delivery(request: web.Request) -> Success[DeliveryDetails]:
    """One delivery with what is sent."""
    found = await _delivery(request, await _owned(request))
    return success({**_delivery_view(found), "payload": json.loads(found.body)})


@routes.post("/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver")
@requires(Permission.GENERATE_VIDEOS)
@operation(status=202, errors=[400])
async def redeliver(request: web.Request) -> Success[DeliveryView]:
    """Send a message once more, whatever became of it, as a delivery of its own with the same `webhook-id`."""
    webhook = await _active(request)
    found = await _delivery(request, webhook)
    return await _send(request, webhook, found.event, found.body, found)


async def _send(
    request: web.Request, webhook: Webhook, event: str, body: str, again: Delivery | None = None
) -> Success[DeliveryView]:
    gateway = request.app[GATEWAY]
    message_id, job_id = (again.message_id, again.job_id) if again else (None, None)
    gone = not_found("Delivery", again.id) if again else not_found("Webhook", webhook.id)
    try:
        async with gateway.database.write() as connection:
            delivery_id = await deliveries.add_alone(connection, webhook.id, event, body, message_id, job_id)
    except IntegrityError:  # the webhook, or the job, has been deleted since it was read
        raise gone from None
    gateway.due.set()
    async with gateway.database.read() as connection:
        queued = await deliveries.find(connection, webhook.id, delivery_id)
    path = f"/webhooks/{webhook.id}/deliveries/{delivery_id}"
    if queued is None:
        raise gone
    headers = {"Location": link(gateway.settings, path)}
    return success(_delivery_view(queued), "Message queued", status=202, headers=headers)


async def _require_allowed(request: web.Request, url: str) -> None:
    problems = await request.app[GATEWAY].guard.problems(url)
    if problems:
        raise invalid({"url": problems})


async def _owned(request: web.Request) -> Webhook:
    webhook_id = ids.given(request, "webhook_id")
    async with request.app[GATEWAY].database.read() as connection:
        webhook = await webhooks.find(connection, webhook_id, request[PRINCIPAL].user_id)
    if webhook is None:
        raise not_found("Webhook", webhook_id)
    return webhook


async def _active(request: web.Request) -> Webhook:
    webhook = await _owned(request)
    if not webhook.active:
        details = {"active": False, "disabled_reason": webhook.disabled_reason}
        raise ApiError(Code.VALIDATION_ERROR, "The webhook is not active", details)
    return webhook


async def _delivery(request: web.Request, webhook: Webhook) -> Delivery:
    delivery_id = ids.given(request, "delivery_id")
    async with request.app[GATEWAY].database.read() as connection:
        found = await deliveries.find(connection, webhook.id, delivery_id)
    if found is None:
        raise not_found("Delivery", delivery_id)
    return found


def _view(webhook: Webhook) -> WebhookView:
    return {
        "id": webhook.id,
        "job_id": webhook.job_id,
        "url": webhook.url,
        "events": list(webhook.events),
        "active": webhook.active,
        "disabled_reason": webhook.disabled_reason,
        "created_at": timestamp(webhook.created_at),
        "updated_at": timestamp(webhook.updated_at),
    }


def _delivery_view(delivery: Delivery) -> DeliveryView:
    pending = delivery.status is DeliveryStatus.PENDING
    return {
        "id": delivery.id,
        "message_id": delivery.message_id,
        "webhook_id": delivery.webhook_id,
        "job_id": delivery.job_id,
        "event": delivery.event,
        "status": delivery.status,
        "created_at": timestamp(delivery.created_at),
        "next_attempt_at": timestamp(delivery.due_at) if pending else None,
        "ended_at": timestamp(delivery.ended_at),
        "attempts": [_attempt_view(attempt) for attempt in delivery.attempts],
    }


def _attempt_view(attempt: Attempt) -> AttemptView:
    return {
        "number": attempt.number,
        "at": timestamp(attempt.at),
        "seconds": attempt.seconds,
        "response_status": attempt.response_status,
        "error": attempt.error,
    }
