"""Jobs that come together are entered together, and none of them at another's expense."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from config.settings import LimitSettings, Settings
from gateway.database.jobs import NewJob
from gateway.database.tables import jobs, limit_uses
from gateway.errors import ApiError, Code
from gateway.idempotency import Answer
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


def entry(world: World, user: str, signature: Any = "") -> Entry:
    request = job(job_id=new_id("job"), user_id=user, model="tiny")
    world.gateway.store.accept(request)
    return Entry(NewJob(request, signature), ANSWER, None)


async def register(world: World, *entries: Entry) -> list[BaseException | None]:
    """In the same moment, so that they go together."""
    return await asyncio.gather(*map(world.gateway.registrar.register, entries), return_exceptions=True)


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
    kept = {keys.request(entries[n].job.job_id) for n in (0, 1, 3)}
    assert {info.key for info in strict.store.list("jobs/")} == kept, "what is refused is forgotten"


async def test_one_that_cannot_be_entered_fails_alone(world: World) -> None:
    good, bad, other = entry(world, "ada"), entry(world, "bob", signature=None), entry(world, "eve")
    outcomes = await register(world, good, bad, other)
    assert [type(outcome) for outcome in outcomes] == [type(None), IntegrityError, type(None)]
    assert await users(world, jobs) == {"ada": 1, "eve": 1}
    assert {info.key for info in world.store.list("jobs/")} == {keys.request(one.job.job_id) for one in (good, other)}
