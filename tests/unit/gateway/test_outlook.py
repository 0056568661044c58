"""Queue positions, ETAs and the catalogue. Runs embedded here and on servers in integration."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import outlook
from gateway.database import workers
from gateway.database.pace import Measured
from gateway.outlook import Fresh, Pace
from pipeline.requests import resolve
from pipeline.vocabulary import EventKind, JobRequest, Stage, now, percent
from tests.unit.gateway.support import World, until
from tests.unit.gateway.test_dispatcher import CATALOGUE
from tests.unit.gateway.test_jobs import dispatched, post

TIMES = {Stage.RENDER: 60, Stage.ENCODE: 20, Stage.THUMBNAILS: 4, Stage.METADATA: 2, Stage.PUBLISH: 1}


def request(**body: Any) -> JobRequest:
    return resolve({"prompt": "p"} | body, user_id="ada", catalogue=CATALOGUE, default_model="tiny")


def complete_as_measured(world: World, job_id: str) -> None:
    """All stages with the times above, side by side where they are."""
    at = now() - timedelta(minutes=5)
    for stage in Stage:
        world.worker.tell(job_id, EventKind.STARTED, stage, at=at)
        world.worker.tell(job_id, EventKind.FINISHED, stage, 1, at=at + timedelta(seconds=TIMES[stage]))
        at += timedelta(seconds=0 if stage is Stage.THUMBNAILS else TIMES[stage])
    world.worker.decide(job_id)
    world.worker.tell(job_id, EventKind.COMPLETED, Stage.PUBLISH, 2, at=at)


async def a_renderer_lives(world: World) -> None:
    async def lives() -> int | None:
        await world.work(world.worker.beat)
        async with world.gateway.database.read() as connection:
            return (await workers.live(connection, now() - timedelta(minutes=1)))["render.tiny"] or None

    await until(lives)


async def status(world: World, job_id: str, user: str = "ada") -> dict[str, Any]:
    return await world.data(f"/videos/{job_id}/status", user)


async def test_a_waiting_job_knows_its_place(world: World) -> None:
    await a_renderer_lives(world)
    first = [await world.generate() for _ in range(2)]
    for job_id in first:
        await dispatched(world, job_id)
    mine = [await world.generate() for _ in range(3)]
    theirs = await world.generate("bob")
    await asyncio.sleep(outlook.QUEUE_FRESH_S)
    assert [(await status(world, job_id))["queue_position"] for job_id in (*first, *mine)] == [1, 2, 4, 5, 6]
    assert (await status(world, theirs, "bob"))["queue_position"] == 3, "its turn comes first"
    await post(world, f"/jobs/{mine[0]}/cancel")
    await world.work(world.worker.render_half, first[0])

    async def moved() -> bool | None:
        return (await status(world, mine[2]))["queue_position"] == 4 or None

    await until(moved)
    assert (await status(world, first[0]))["queue_position"] is None
    assert (await status(world, mine[0]))["queue_position"] is None


async def test_the_eta_comes_from_measured_stage_times(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await a_renderer_lives(world)
    unknown = await world.generate()
    assert (await status(world, unknown))["eta_seconds"] is None, "nothing was measured yet"
    await world.work(complete_as_measured, world, unknown)
    await world.reached(unknown, "completed")
    assert (await status(world, unknown))["eta_seconds"] is None
    world.gateway.outlook = outlook.Outlook(world.settings, world.catalogue, world.gateway.database)
    first, second = await world.generate(), await world.generate(duration=8)
    assert (await status(world, first))["eta_seconds"] == 60 + 20 + 4 + 1
    assert (await status(world, second))["eta_seconds"] == 60 + 2 * (60 + 20 + 4 + 1)
    await world.work(world.worker.render_half, first)

    async def rendering() -> dict[str, Any] | None:
        data = await status(world, first)
        return data if data["progress"] == 35 else None

    assert (await until(rendering))["eta_seconds"] == 30 + 20 + 4 + 1


async def test_models_are_listed_with_their_limits(world: World) -> None:
    data = await world.data("/models")
    assert data["default"] == "tiny"
    assert {model["name"] for model in data["models"]} == set(world.catalogue.names)
    tiny = data["models"][0]
    assert tiny["name"] == "tiny"
    assert tiny["renderers"] == 1
    assert tiny["native"]["16:9"]["width"] == 112
    limits = tiny["parameters"]
    assert limits["duration"] == {"type": "number", "minimum": 1, "maximum": 60, "default": 4.0, "required": False}
    assert limits["quality"]["enum"] == ["720p", "1080p"]
    assert limits["seed"] | {"default": None} == limits["seed"]
    assert (limits["prompt"]["required"], limits["prompt"]["maxLength"]) == (True, 2000)
    assert limits["aspect_ratio"]["enum"] == ["16:9"]


def measured(seconds: float, **body: Any) -> Measured:
    return Measured(request(**body), dict.fromkeys(Stage, seconds))


def test_a_pace_is_the_median_of_what_was_measured() -> None:
    jobs = [measured(10), measured(12), measured(1000)]
    pace = Pace.of(jobs)
    assert pace is not None
    assert pace.remaining(jobs[0].request, None, 0) == pytest.approx(4 * 12)
    assert Pace.of([]) is None


@given(
    frames=st.integers(1, 60),
    steps=st.integers(1, 50),
    progress=st.lists(st.floats(0, 99.9), min_size=2, max_size=2).map(sorted),
)
def test_what_remains_shrinks_with_progress_and_grows_with_the_work(
    frames: int, steps: int, progress: list[float]
) -> None:
    pace = Pace.of([measured(10, duration=10)])
    assert pace is not None
    asked = request(duration=1, fps=frames, steps=steps)
    earlier, later = (pace.remaining(asked, Stage.RENDER, at) for at in progress)
    assert later <= earlier <= pace.remaining(asked, None, 0)
    assert pace.remaining(request(duration=2, fps=frames, steps=steps), None, 0) >= earlier
    assert pace.remaining(asked, Stage.PUBLISH, percent(Stage.PUBLISH, 1.0)) == 0


async def test_many_who_ask_share_one_question() -> None:
    asked: list[int] = []

    async def ask() -> int:
        asked.append(1)
        await asyncio.sleep(0.01)
        return len(asked)

    fresh = Fresh(60, ask)
    assert await asyncio.gather(*(fresh.get() for _ in range(20))) == [1] * 20
    assert await fresh.renew() == 2


async def test_many_who_wait_fail_with_one_question() -> None:
    asked: list[int] = []

    async def ask() -> int:
        asked.append(1)
        await asyncio.sleep(0.01)
        if len(asked) == 1:
            raise TimeoutError
        return len(asked)

    fresh = Fresh(60, ask)
    failed = await asyncio.gather(*(fresh.renew() for _ in range(20)), return_exceptions=True)
    assert [type(error) for error in failed] == [TimeoutError] * 20
    assert await fresh.get() == 2
