"""Jobs that come together are entered together, and none of them at another's expense."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from config.settings import LimitSettings, Settings
from gateway.database import allowances, webhooks
from gateway.database.jobs import NewJob
from gateway.database.tables import jobs, limit_uses
from gateway.errors import ApiError, Code
from gateway.idempotency import Answer, Attempt, KeyTaken
from gateway.limits.policy import Limit
from gateway.registration import Entry
from pipeline import keys
from pipeline.vocabulary import new_id
from tests.small_stages import job
from tests.unit.gateway.fixtures import OpenWorld
from tests.unit.gateway.support import World

ANSWER = Answer(202, {}, "")


@pytest.fixture
async def strict(open_world: OpenWorld, settings: Settings) -> World:
    """Two jobs an hour for each user."""
    return await open_world(settings.model_copy(update={"limits": LimitSettings(jobs=2)}))


def entry(world: World, user: str, signature: Any = "", key: str | None = None, **asked: Any) -> Entry:
    request = job(job_id=new_id("job"), user_id=user, model="tiny", **asked)
    world.gateway.store.accept(request)
    return Entry(NewJob(request, signature), ANSWER, None if key is None else Attempt(user, key, "fingerprint"))


async def register(world: World, *entries: Entry) -> list[BaseException | None]:
    """In the same moment, so that they go together."""
    return await asyncio.gather(*map(world.gateway.registrar.register, entries), return_exceptions=True)


def stored(world: World) -> set[str]:
    return {info.key for info in world.store.list("jobs/")}


def requests(entries: Iterable[Entry]) -> set[str]:
    return {keys.request(one.job.job_id) for one in entries}


async def users(world: World, table: Any) -> Counter[str]:
    async with world.gateway.database.read() as connection:
        return Counter((await connection.execute(select(table.c.user_id))).scalars())


async def test_they_share_a_transaction(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    transactions, real = 0, world.gateway.database.write

    def counted() -> AbstractAsyncContextManager[AsyncConnection]:
        nonlocal transactions
        transactions += 1
        return real()

    entries = [entry(world, user) for user in ("ada", "bob", "ada", "eve", "ada")]
    with monkeypatch.context() as patch:
        patch.setattr(world.gateway.database, "write", counted)
        assert await register(world, *entries) == [None] * 5
    assert transactions == 1
    assert await users(world, jobs) == await users(world, limit_uses) == {"ada": 3, "bob": 1, "eve": 1}


async def test_who_has_made_too_many_is_refused_and_nobody_else(strict: World) -> None:
    entries = [entry(strict, user) for user in ("ada", "ada", "ada", "bob", "ada")]
    outcomes = await register(strict, *entries)
    assert [outcome and outcome.code for outcome in outcomes if outcome is None or isinstance(outcome, ApiError)] == [
        None, None, Code.RATE_LIMIT_EXCEEDED, None, Code.RATE_LIMIT_EXCEEDED,
    ]  # fmt: skip
    assert await users(strict, jobs) == await users(strict, limit_uses) == {"ada": 2, "bob": 1}
    assert stored(strict) == requests(entries[n] for n in (0, 1, 3)), "what is refused is forgotten"


async def test_users_own_limits_hold_for_each(strict: World) -> None:
    async with strict.gateway.database.write() as connection:
        await allowances.grant(connection, "ada", Limit.JOBS, 3)
        await allowances.grant(connection, "bob", Limit.JOBS, 0)
    await register(strict, entry(strict, "ada"))
    await register(strict, *(entry(strict, user) for user in ("ada", "bob", "eve") for _ in range(3)))
    assert await users(strict, jobs) == {"ada": 3, "eve": 2}


async def test_one_that_cannot_be_entered_fails_alone(world: World) -> None:
    good, bad, other = entry(world, "ada"), entry(world, "bob", signature=None), entry(world, "eve")
    outcomes = await register(world, good, bad, other)
    assert [type(outcome) for outcome in outcomes] == [type(None), IntegrityError, type(None)]
    assert await users(world, jobs) == {"ada": 1, "eve": 1}
    assert stored(world) == requests([good, other])


async def test_of_two_with_one_key_one_is_entered(world: World) -> None:
    first, second = entry(world, "ada", key="k"), entry(world, "ada", key="k")
    outcomes = await register(world, first, second, entry(world, "bob", key="k"))
    assert [type(outcome) for outcome in outcomes] == [type(None), KeyTaken, type(None)]
    assert await users(world, jobs) == await users(world, limit_uses) == {"ada": 1, "bob": 1}
    assert keys.request(second.job.job_id) not in stored(world)


async def test_each_has_its_receiver(world: World) -> None:
    urls = [f"https://93.184.216.34/{n}" for n in range(3)]
    entries = [entry(world, user, webhook_url=url) for user, url in zip(("ada", "ada", "bob"), urls, strict=True)]
    assert await register(world, *entries) == [None] * 3
    async with world.gateway.database.read() as connection:
        assert [await webhooks.receivers(connection, one.job.job_id) for one in entries] == [[url] for url in urls]


async def test_none_is_promised_and_kept_while_the_database_is_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = 0

    async def away(*_: object) -> None:
        nonlocal tried
        tried += 1
        raise OSError("The database is away.")

    with monkeypatch.context() as patch:
        patch.setattr("gateway.database.jobs.add", away)
        outcomes = await register(world, entry(world, "ada"), entry(world, "bob"))
    assert [type(outcome) for outcome in outcomes] == [OSError] * 2
    assert tried == 1
    assert stored(world) == set()
    assert await users(world, limit_uses) == {}


async def test_all_stay_that_may_be_promised(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = world.gateway.database.write

    @asynccontextmanager
    async def unanswered() -> AsyncIterator[AsyncConnection]:
        async with real() as connection:
            yield connection
        raise OSError("The connection broke.")

    entries = [entry(world, "ada"), entry(world, "bob")]
    with monkeypatch.context() as patch:
        patch.setattr(world.gateway.database, "write", unanswered)
        assert [type(outcome) for outcome in await register(world, *entries)] == [OSError] * 2
    assert stored(world) == requests(entries)
    assert await users(world, jobs) == {"ada": 1, "bob": 1}


@pytest.mark.parametrize("quota", [1, 0])
async def test_one_whose_caller_is_gone_is_entered_or_forgotten(
    open_world: OpenWorld, settings: Settings, quota: int
) -> None:
    world = await open_world(settings.model_copy(update={"limits": LimitSettings(jobs=1)}))
    async with world.gateway.database.write() as connection:
        await allowances.grant(connection, "ada", Limit.JOBS, quota)
    async with world.gateway.database.write() as elsewhere:
        await world.gateway.limiter.hold(elsewhere, Limit.JOBS, "ada")
        caller = asyncio.create_task(world.gateway.registrar.register(entry(world, "ada")))
        await asyncio.sleep(0.2)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
    await world.gateway.registrar.close()
    assert sum((await users(world, jobs)).values()) == len(stored(world)) == quota
