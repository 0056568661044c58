"""How often users may ask."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from sqlalchemy import update
from typer.testing import CliRunner

from cli.main import app as command
from config.settings import LimitSettings, Settings
from gateway.database.tables import limit_uses
from gateway.limits import counters
from gateway.limits.counters import WINDOW_MS, MemoryCounter, new_mark
from gateway.limits.limiter import _site
from gateway.limits.policy import Limit, Standing, exceeded
from pipeline.vocabulary import now
from tests.unit.gateway.fixtures import OpenWorld
from tests.unit.gateway.support import API, World
from tests.unit.gateway.test_api import error

FEW = LimitSettings(general=5, system=3, uploads=2, jobs=2)
BODY = {"prompt": "A beautiful sunset over mountains"}


@pytest.fixture
def few(settings: Settings) -> Settings:
    return settings.model_copy(update={"limits": FEW})


@pytest.fixture
async def strict(open_world: OpenWorld, few: Settings) -> World:
    return await open_world(few)


async def refused(response: ClientResponse, quota: int, noun: str) -> None:
    told = await error(response, 429, "RATE_LIMIT_EXCEEDED")
    assert told["message"] == "Rate limit exceeded"
    assert told["details"] == f"You have exceeded the limit of {quota} {noun} per hour. Try again in 60 minutes."
    assert 3590 <= int(response.headers["Retry-After"]) <= 3600


def left(response: ClientResponse) -> int:
    """What remains of the first limit the answer tells of."""
    return int(response.headers["RateLimit"].split("r=")[1].split(";")[0])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_a_network_of_ipv6_counts_as_one_client(one: str, other: str, same: bool) -> None:
    assert (_site(one) == _site(other)) is same


async def test_requests_of_a_user(strict: World) -> None:
    for left in range(4, -1, -1):
        response = await strict.get("/jobs")
        assert response.status == 200
        assert response.headers["RateLimit"].startswith(f'"general";r={left};t=')
        assert response.headers["RateLimit-Policy"] == '"general";q=5;w=3600'
    await refused(await strict.get("/jobs"), 5, "requests")
    assert (await strict.get("/jobs", user="bob")).status == 200, "another user has a limit of their own"


async def test_requests_of_an_address(strict: World) -> None:
    for _ in range(5):
        await error(await strict.client.get(f"{API}/jobs"), 401, "AUTH_REQUIRED")
    await refused(await strict.client.get(f"{API}/auth/status"), 5, "requests")
    for _ in range(10):
        assert (await strict.client.get(f"{API}/system/health")).status == 200, "probes do not count"


async def test_what_the_client_had_already_does_not_count(open_world: OpenWorld, few: Settings) -> None:
    plenty = few.model_copy(update={"limits": FEW.model_copy(update={"general": 1000})})
    world = await open_world(plenty)
    job_id = await world.completed()
    first = await world.get(f"/videos/{job_id}/thumbnail")
    before = left(first)
    for _ in range(3):
        again = await world.get(f"/videos/{job_id}/thumbnail", If_None_Match=first.headers["ETag"])
        assert again.status == 304
    assert left(await world.get("/jobs")) == before - 1


async def test_jobs_count_even_after_they_are_gone_and_through_a_restart(open_world: OpenWorld, few: Settings) -> None:
    world = await open_world(few)
    response = await world.client.post(f"{API}/videos/generate", json=BODY, headers=world.headers())
    assert '"jobs";r=1;t=' in response.headers["RateLimit"]
    job_id = (await response.json())["data"]["job_id"]
    await world.get(f"/jobs/{job_id}/cancel", method="POST")
    await world.get(f"/jobs/{job_id}", method="DELETE")
    await world.generate()
    again = await open_world(few)
    response = await again.client.post(f"{API}/videos/generate", json=BODY, headers=again.headers())
    await refused(response, 2, "jobs")


async def test_the_window_slides(strict: World) -> None:
    for _ in range(2):
        await strict.generate()
    async with strict.gateway.database.write() as connection:
        await connection.execute(update(limit_uses).values(at=now() - timedelta(hours=1)))
    await strict.generate()


async def test_never_more_than_the_limit_lets_through(open_world: OpenWorld, few: Settings) -> None:
    generous = few.model_copy(update={"limits": FEW.model_copy(update={"general": 1000, "jobs": 7})})
    worlds = [await open_world(generous) for _ in range(2)]

    async def submit(number: int) -> int:
        world = worlds[number % 2]
        async with world.client.post(f"{API}/videos/generate", json=BODY, headers=world.headers()) as response:
            return response.status

    statuses = await asyncio.gather(*(submit(number) for number in range(50)))
    assert sorted(statuses) == [202] * 7 + [429] * 43
    assert (await worlds[0].data("/jobs"))["pagination"]["total_items"] == 7
    kept = {path.parent.name for path in (worlds[0].settings.data_dir / "store").rglob("request.json")}
    assert len(kept) == 7, "nothing is left of what was refused"


def test_a_user_gets_limits_of_their_own(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        done = CliRunner().invoke(command, ["user", "limit", "ada", "--data", str(tmp_path), *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    assert "jobs: 10 per hour" in run()
    assert "jobs: 3 per hour" in run("--jobs", "3")
    assert "general: 7 per hour" in run("--general", "7")
    assert "jobs: 3 per hour" in run()
    assert "jobs: 10 per hour" in run("--reset")


async def test_a_users_own_limit_holds(strict: World) -> None:
    arguments = ["user", "limit", "ada", "--data", str(strict.settings.data_dir), "--jobs", "3", "--general", "9"]
    done = await asyncio.to_thread(CliRunner().invoke, command, arguments)
    assert done.exit_code == 0, done.output
    for _ in range(3):
        await strict.generate()
    response = await strict.client.post(f"{API}/videos/generate", json=BODY, headers=strict.headers())
    await refused(response, 3, "jobs")
    assert '"general";q=9' in response.headers["RateLimit-Policy"]


async def test_counting_in_memory() -> None:
    at = [0.0]
    counter = MemoryCounter(lambda: at[0])
    marks = [new_mark() for _ in range(3)]
    assert [await counter.take("a", 2, mark) for mark in marks] == [(True, 1, 3600), (True, 0, 3600), (False, 0, 3600)]
    await counter.give_back("a", marks[0])
    assert (await counter.take("a", 2, new_mark()))[0]
    at[0] = WINDOW_MS / 1000
    assert await counter.take("a", 2, new_mark()) == (True, 1, 3600)
    assert (await counter.take("b", 0, new_mark())) == (False, 0, 3600)


async def test_a_redis_that_never_comes_to_an_end_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "CONNECT_S", 0.1)
    counter = counters.RedisCounter("redis://localhost")
    asked = []

    async def hang(**_: object) -> None:
        asked.append(1)
        await asyncio.sleep(60)

    monkeypatch.setattr(counter, "_take_script", hang)
    for _ in range(2):
        taken = await asyncio.gather(*(counter.take("a", 5, new_mark()) for _ in range(3)))
    await counter.close()
    assert [allowed for allowed, _, _ in taken] == [True, True, False]
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("reset_s", "text"), [(2700.0, "in 45 minutes."), (59.0, "in 1 minute."), (0.0, "in 1 minute.")]
)
def test_the_documents_words(reset_s: float, text: str) -> None:
    told: Any = exceeded(Standing(Limit.UPLOADS, 100, 0, reset_s)).details
    assert told == f"You have exceeded the limit of 100 uploads per hour. Try again {text}"
