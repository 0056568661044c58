"""Jobs found by their ids, read as the driver gives them."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.exc import DBAPIError

from gateway.database import jobs
from gateway.database.engine import Database
from gateway.database.lookup import Lookup
from gateway.database.tables import jobs as table
from gateway.together import Together
from pipeline.vocabulary import Failure, JobRequest, Stage, Status, now
from tests.small_stages import job
from tests.unit.gateway.test_projection import database

__all__ = ["database"]


async def accepted(database: Database) -> JobRequest:
    request = job()
    async with database.write() as connection:
        await jobs.add(connection, jobs.NewJob(request))
    return request


async def test_a_job_is_what_sqlalchemy_reads_of_it(database: Database) -> None:
    failure = Failure(stage=Stage.RENDER, code="OutOfMemory", message='"quoted"\\ ünd', remedy="", attempts=1)
    values = {
        "status": Status.FAILED, "stage": Stage.RENDER, "position": [1, 2, 3], "progress": 12.5, "started_at": now(),
        "completed_at": now(), "expires_at": now(), "media": {"duration": 1.5}, "seq": 7,
        "failure": failure.model_dump(mode="json"),
    }  # fmt: skip
    for changed in ({}, values):
        request = await accepted(database)
        async with database.write() as connection:
            if changed:
                await connection.execute(update(table).where(table.c.id == request.job_id).values(changed))
            (row,) = await connection.execute(select(table).where(table.c.id == request.job_id))
        found = await Lookup(database).find(request.job_id, request.user_id)
        assert found is not None
        assert found == jobs.read(row)


async def test_an_unchanged_job_is_the_same_object_and_a_changed_one_is_not(database: Database) -> None:
    request, lookup = await accepted(database), Lookup(database)
    first = await lookup.find(request.job_id, request.user_id)
    assert first is not None
    assert await lookup.find(request.job_id, request.user_id) is first
    other = Database(database.engine.url.render_as_string(hide_password=False))
    async with other.write() as connection:
        await connection.execute(update(table).where(table.c.id == request.job_id).values(progress=50.0))
    await other.close()
    changed = await lookup.find(request.job_id, request.user_id)
    assert changed is not None
    assert (first.projection.progress, changed.projection.progress) == (0.0, 50.0)


async def test_a_stranger_is_not_even_read_the_row(database: Database) -> None:
    request = await accepted(database)
    async with database.write() as connection:
        await connection.execute(update(table).where(table.c.id == request.job_id).values(request={}))
    assert await Lookup(database).find(request.job_id, "somebody else") is None


async def test_many_at_once_each_get_their_own_job_and_nobody_elses(database: Database) -> None:
    requests, lookup = [await accepted(database) for _ in range(20)], Lookup(database)
    asked = [(one.job_id, user) for one in requests for user in (one.user_id, "somebody else")]
    found = await asyncio.gather(*(lookup.find(*one) for one in asked), lookup.find("job_nowhere", "ada"))
    mine = [job_id if user != "somebody else" else None for job_id, user in asked]
    assert [one and one.id for one in found] == [*mine, None]


async def test_many_do_not_wait_for_a_database_that_hangs(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*_: object) -> list[object]:
        await asyncio.sleep(10)
        return []

    monkeypatch.setattr("gateway.database.lookup.LIMIT_S", 0.05)
    monkeypatch.setattr(database, "rows", hang)
    find = Together(Lookup(database)._some)
    for job_id in ("job_one", "job_next"):
        with pytest.raises(TimeoutError):
            await find(job_id)


async def test_what_is_kept_of_a_job_ends_with_it(database: Database) -> None:
    request, lookup = await accepted(database), Lookup(database)
    assert await lookup.find(request.job_id, request.user_id) is not None
    assert await lookup.find(request.job_id, "somebody else") is None
    async with database.write() as connection:
        await connection.execute(delete(table).where(table.c.id == request.job_id))
    assert await lookup.find(request.job_id, request.user_id) is None


async def test_an_error_of_the_driver_is_one_of_sqlalchemys(database: Database) -> None:
    with pytest.raises(DBAPIError):
        await database.rows("SELECT nothing FROM nowhere", ())
