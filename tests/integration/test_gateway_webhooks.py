"""Webhooks once more on PostgreSQL, and with gateways killed while they deliver."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from itertools import groupby
from pathlib import Path

import pytest
from pydantic import SecretStr

from config.catalogue import Catalogue
from config.settings import Settings
from gateway.database import deliveries, jobs, migrate, webhooks
from gateway.database.deliveries import DeliveryStatus
from gateway.database.engine import Database
from gateway.pagination import Page
from gateway.webhooks.messages import EVENTS
from pipeline.bus.factory import open_publisher
from pipeline.requests import resolve
from pipeline.store.factory import open_store
from tests.integration.gateways import Gateways, environment_of
from tests.unit.gateway.fixtures import broker, bus, open_world, settings, store, world
from tests.unit.gateway.receivers import SECRET, Received, Receiver, running, verify_webhook
from tests.unit.gateway.support import Worker
from tests.unit.gateway.test_webhook_delivery import (
    test_410_disables_the_webhook_until_its_owner_says_otherwise,
    test_a_deleted_webhook_takes_what_was_on_its_way_along,
    test_a_failing_receiver_gets_all_in_order_once_it_is_back,
    test_a_hanging_receiver_delays_no_other,
    test_a_job_is_told_from_start_to_end,
    test_a_jobs_own_receiver_hears_of_that_job_only,
    test_a_long_log_is_forgotten_in_parts,
    test_progress_never_holds_back_what_comes_later,
    test_several_senders_share_the_work_and_keep_the_order,
)
from tests.unit.gateway.test_webhooks import (
    local_world,
    test_a_rotation_whose_answer_was_lost_is_repeated,
    test_a_test_message_is_signed_logged_and_sent_again_on_demand,
    test_a_webhook_is_made_read_changed_and_deleted,
    test_another_users_webhook_looks_like_none,
    test_for_a_day_after_a_rotation_both_secrets_sign,
    test_the_secret_of_single_jobs_is_rotated_alike,
    test_webhooks_are_listed_in_pages_newest_first,
    test_what_is_deleted_while_a_message_is_asked_for_is_404,
)

__all__ = [
    "broker",
    "bus",
    "local_world",
    "open_world",
    "settings",
    "store",
    "test_410_disables_the_webhook_until_its_owner_says_otherwise",
    "test_a_deleted_webhook_takes_what_was_on_its_way_along",
    "test_a_failing_receiver_gets_all_in_order_once_it_is_back",
    "test_a_hanging_receiver_delays_no_other",
    "test_a_job_is_told_from_start_to_end",
    "test_a_jobs_own_receiver_hears_of_that_job_only",
    "test_a_long_log_is_forgotten_in_parts",
    "test_a_rotation_whose_answer_was_lost_is_repeated",
    "test_a_test_message_is_signed_logged_and_sent_again_on_demand",
    "test_a_webhook_is_made_read_changed_and_deleted",
    "test_another_users_webhook_looks_like_none",
    "test_for_a_day_after_a_rotation_both_secrets_sign",
    "test_progress_never_holds_back_what_comes_later",
    "test_several_senders_share_the_work_and_keep_the_order",
    "test_the_secret_of_single_jobs_is_rotated_alike",
    "test_webhooks_are_listed_in_pages_newest_first",
    "test_what_is_deleted_while_a_message_is_asked_for_is_404",
    "world",
]

JOBS, KILLS = 30, 5
END_S = 90
PROCESS = {
    "T2M_GATEWAY__ROLES": '["projector", "webhooks"]',
    "T2M_WEBHOOKS__ALLOW_HTTP": "true",
    "T2M_WEBHOOKS__ALLOWED_NETWORKS": '["127.0.0.0/8"]',
    "T2M_WEBHOOKS__TIMEOUT_S": "0.5",
    "T2M_WEBHOOKS__LEASE_S": "1",
    "T2M_WEBHOOKS__RETRIES_S": f"[{', '.join(['0.2'] * 500)}]",
}


@pytest.fixture
def servers() -> tuple[str, ...]:
    return ("postgres",)


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    database = Database(settings.database_url)
    await migrate.upgrade(database)
    yield database
    await database.close()


async def accepted(database: Database, worker: Worker) -> str:
    job = resolve({"prompt": "p"}, user_id="ada", catalogue=Catalogue.load(), default_model="tiny")
    await asyncio.to_thread(worker.jobs.accept, job)
    async with database.write() as connection:
        await jobs.add(connection, jobs.NewJob(job))
    return job.job_id


async def pending(database: Database) -> int:
    async with database.read() as connection:
        return await deliveries.count_pending(connection)


def misbehave(receiver: Receiver) -> None:
    """Fail, hang past the limit, or work; each a good part of the time."""
    dice = random.Random(7)

    async def answer(received: Received) -> int:
        mood = dice.random()
        if mood < 0.2:
            await asyncio.sleep(2)
        return 500 if mood < 0.5 else 200

    receiver.behave = answer


async def test_gateways_killed_while_a_receiver_fails_hangs_and_comes_back_lose_no_message(
    request: pytest.FixtureRequest, settings: Settings, database: Database, tmp_path: Path
) -> None:
    settings = settings.model_copy(
        update={
            "broker": settings.broker.model_copy(update={"url": SecretStr(request.getfixturevalue("rabbitmq_vhost"))})
        }
    )
    worker = Worker(open_store(settings), open_publisher(settings), tmp_path)
    async with running() as receiver, running() as other:
        async with database.write() as connection:
            for url in (receiver.url, other.url):
                await webhooks.add(connection, "ada", url, EVENTS, SECRET)
        misbehave(receiver)
        its = [await accepted(database, worker) for _ in range(JOBS)]
        both = await asyncio.to_thread(Gateways, environment_of(settings) | PROCESS, tmp_path)
        try:
            for n in range(KILLS):
                for job_id in its[n::KILLS]:
                    await asyncio.to_thread(worker.complete if n % 2 else worker.fail, job_id)
                await asyncio.sleep(random.Random(n).uniform(0, 0.3))
                await asyncio.to_thread(both.kill_one)
                await asyncio.to_thread(both.wait)
            receiver.behave = lambda _: 200
            async with asyncio.timeout(END_S):
                while not all_told(receiver, its) or not all_told(other, its) or await pending(database):
                    await asyncio.sleep(0.1)
        finally:
            await asyncio.to_thread(both.close)
    await asyncio.to_thread(worker.publisher.close)
    for one in (receiver, other):
        check_order(one, its)
    await check_log(database, receiver, other)


def all_told(receiver: Receiver, its: list[str]) -> bool:
    ended = {got.job_id for got in receiver.got if got.event in ("job.completed", "job.failed")}
    return ended == set(its)


def check_order(receiver: Receiver, its: list[str]) -> None:
    """Every job from its start to its verdict, each message perhaps several times, never an earlier one after it."""
    assert all(verify_webhook(got.body, got.headers["x-t2m-signature"], SECRET) for got in receiver.got)
    for job_id in its:
        told = [(got.payload["data"].get("progress", 100), got.event) for got in receiver.got if got.job_id == job_id]
        once = [key for key, _ in groupby(told)]
        assert once == sorted(set(once)), "in order"
        assert once[-1][1] in ("job.completed", "job.failed")


async def check_log(database: Database, *receivers: Receiver) -> None:
    """All was delivered or overtaken; what the log calls delivered did arrive."""
    arrived = {got.headers["webhook-id"] for receiver in receivers for got in receiver.got}
    async with database.read() as connection:
        hooks, _ = await webhooks.page(connection, "ada", Page())
        logged = [
            delivery
            for hook in hooks
            for number in range(1, 9)
            for delivery in (await deliveries.page(connection, hook.id, Page(number, 100), None, None))[0]
        ]
    outcomes = Counter(delivery.status for delivery in logged)
    assert set(outcomes) <= {DeliveryStatus.DELIVERED, DeliveryStatus.DROPPED}, outcomes
    assert {one.message_id for one in logged if one.status is DeliveryStatus.DELIVERED} <= arrived
