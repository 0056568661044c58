"""`GET /jobs/{id}/events`: the log as it grows, resumed anywhere. Runs embedded here and on servers in integration."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import hypothesis
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from sqlalchemy import delete, select, update

from config.settings import Settings
from gateway import feeds, sse
from gateway.archive import Archive
from gateway.auth.base import Permission
from gateway.database import tables
from gateway.feeds import Feed
from gateway.routes import jobs as routes
from gateway.sidecars import read_log
from gateway.sse import Frame
from pipeline.vocabulary import EventKind, Stage, now
from tests.unit.gateway.fixtures import OpenWorld
from tests.unit.gateway.support import API, PATIENCE_S, World, until
from tests.unit.gateway.test_api import UNKNOWN, error
from tests.unit.gateway.test_hostile_requests import connected
from tests.unit.gateway.test_jobs import logged, post


class Stream:
    """A client of server-sent events, as the standard describes one."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.comments: list[str] = []

    async def event(self) -> dict[str, Any] | None:
        """The next event; None at the end of the stream."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(PATIENCE_S):
            while line := await self.response.content.readline():
                text = line.decode().removesuffix("\n")
                if text.startswith(":"):
                    self.comments.append(text)
                elif text:
                    name, _, value = text.partition(": ")
                    fields[name] = value
                elif "data" in fields:
                    return {"id": int(fields["id"]), "event": fields["event"], "data": json.loads(fields["data"])}
                else:
                    fields = {}
        return None

    async def rest(self) -> list[dict[str, Any]]:
        """All events to the end."""
        found = []
        while (event := await self.event()) is not None:
            found.append(event)
        return found


@asynccontextmanager
async def streaming(world: World, job_id: str, **headers: str) -> AsyncIterator[Stream]:
    response = await world.get(f"/jobs/{job_id}/events", **headers)
    assert response.status == 200, await response.text()
    assert response.headers["Content-Type"] == "text/event-stream"
    async with response:
        yield Stream(response)


async def test_pictures_come_with_the_events_and_stay_out_of_the_logs(world: World) -> None:
    job_id = await world.generate()
    async with streaming(world, job_id) as stream:
        await world.work(world.worker.show, job_id, b"a JPEG", 1.25)
        preview = await stream.event()
    assert preview is not None
    assert preview["event"] == "preview"
    assert preview["data"] == {
        "job_id": job_id,
        "status": "processing",
        "stage": "rendering",
        "progress": 0,
        "timestamp": preview["data"]["timestamp"],
        "level": "INFO",
        "message": "Rendering preview",
        "preview": {"image": "data:image/jpeg;base64,YSBKUEVH", "at": 1.25},
    }
    await world.work(world.worker.render_half, job_id)
    lines = await logged(world, job_id, 2)
    assert [line["message"] for line in lines["logs"]] == ["Rendering started", "Rendering step 12/24"]
    assert (lines["total_logs"], lines["has_more"]) == (2, False)


async def test_pictures_are_for_tokens_that_may_read_files(world: World) -> None:
    job_id = await world.generate()
    await world.work(world.worker.show, job_id, b"a JPEG", 0.0)
    await world.work(world.worker.complete, job_id)
    await world.reached(job_id, "completed")
    limited = world.token(permissions=[Permission.GENERATE_VIDEOS])
    async with streaming(world, job_id) as mine, streaming(world, job_id, Authorization=f"Bearer {limited}") as its:
        assert (await mine.rest())[0]["event"] == "preview"
        assert "preview" not in [event["event"] for event in await its.rest()]


async def test_with_a_safety_hook_nobody_sees_pictures_before_it_was_asked(
    open_world: OpenWorld, settings: Settings
) -> None:
    safety = settings.safety.model_copy(update={"hook": "tests.safety_hook:Hook"})
    world = await open_world(settings.model_copy(update={"safety": safety}))
    job_id = await world.generate()
    await world.work(world.worker.show, job_id, b"a JPEG", 0.0)
    await world.work(world.worker.complete, job_id)
    await world.reached(job_id, "completed")
    async with streaming(world, job_id) as stream:
        assert "preview" not in [event["event"] for event in await stream.rest()]


async def test_pictures_leave_the_log_when_it_is_kept(world: World) -> None:
    job_id = await world.generate()
    await world.work(world.worker.show, job_id, b"a JPEG", 0.0)
    await world.work(world.worker.complete, job_id)
    await world.reached(job_id, "completed")
    await Archive(world.gateway.database, world.worker.jobs).keep(now())
    kept = await asyncio.to_thread(read_log, world.worker.store, job_id)
    assert kept is not None
    assert kept[0].event.kind is EventKind.PREVIEW
    assert kept[0].event.data == {}
    assert [entry.seq for entry in kept] == list(range(1, len(kept) + 1))
    async with streaming(world, job_id) as stream:
        told = await stream.rest()
    assert [event["event"] for event in told] == [entry.event.kind for entry in kept]
    assert "preview" not in told[0]["data"]


async def test_a_picture_that_comes_after_the_verdict_is_not_kept(world: World) -> None:
    job_id = await world.generate()
    await world.work(world.worker.complete, job_id)
    await world.reached(job_id, "completed")
    before = (await logged(world, job_id, 1))["total_logs"]
    await world.work(world.worker.show, job_id, b"a JPEG", 0.0)
    await world.work(world.worker.tell, job_id, EventKind.LOG, Stage.PUBLISH, 9, message="the last")
    await logged(world, job_id, before + 1)
    query = select(tables.events.c.kind).where(tables.events.c.job_id == job_id)
    async with world.gateway.database.read() as connection:
        kinds = list((await connection.execute(query)).scalars())
    assert EventKind.PREVIEW not in kinds


async def test_events_of_a_newer_release_are_passed_over(world: World) -> None:
    job_id = await world.generate()
    await world.work(world.worker.complete, job_id)
    await world.reached(job_id, "completed")
    async with world.gateway.database.write() as connection:
        first = (tables.events.c.job_id == job_id) & (tables.events.c.seq == 1)
        await connection.execute(update(tables.events).where(first).values(kind="sung"))
    async with streaming(world, job_id) as stream:
        assert (await stream.event() or {})["id"] == 2
    assert (await world.data(f"/jobs/{job_id}/logs"))["logs"][0]["message"] == "Rendering finished"


async def test_a_stream_ends_when_its_job_is_deleted_unseen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "HEARTBEAT_S", 0.05)
    job_id = await world.generate()
    async with streaming(world, job_id) as stream:
        async with world.gateway.database.write() as connection:
            await connection.execute(delete(tables.jobs).where(tables.jobs.c.id == job_id))
        assert await stream.rest() == []


async def test_events_come_as_they_happen_and_the_stream_ends_with_the_job(world: World) -> None:
    job_id = await world.generate()
    async with streaming(world, job_id) as stream:
        await world.work(world.worker.render_half, job_id)
        started, half = await stream.event(), await stream.event()
        assert started is not None
        assert half is not None
        assert (started["id"], started["event"], half["id"], half["event"]) == (1, "started", 2, "progress")
        assert half["data"] == {
            "job_id": job_id,
            "status": "processing",
            "stage": "rendering",
            "progress": 35,
            "timestamp": half["data"]["timestamp"],
            "level": "INFO",
            "message": "Rendering step 12/24",
            "figures": {"step": 12, "steps": 24},
        }
        await world.work(world.worker.complete, job_id)
        rest = await stream.rest()
    assert [event["id"] for event in rest] == list(range(3, 3 + len(rest)))
    assert rest[-1]["event"] == "completed"
    assert (rest[-1]["data"]["status"], rest[-1]["data"]["progress"]) == ("completed", 100)


async def test_a_stream_is_resumed_after_the_last_event_id(world: World) -> None:
    job_id = await world.completed()
    async with streaming(world, job_id) as stream:
        everything = await stream.rest()
    for seen in (1, 4, len(everything) - 1):
        async with streaming(world, job_id, Last_Event_ID=str(seen)) as stream:
            assert await stream.rest() == everything[seen:]
    async with await world.get(f"/jobs/{job_id}/events?last_event_id=4") as response:
        assert await Stream(response).rest() == everything[4:]
    response = await world.get(f"/jobs/{job_id}/events", Last_Event_ID=str(len(everything)))
    assert response.status == 204, "a browser's EventSource stops only at this"


async def test_head_has_no_events_and_leaves_the_connection_to_the_next_request(world: World) -> None:
    for job_id in (await world.generate(), await world.completed()):
        async with connected(world) as (reader, writer):
            for method, path in (("HEAD", f"/jobs/{job_id}/events"), ("GET", f"/jobs/{job_id}/logs")):
                head = f"{method} {API}{path} HTTP/1.1\r\nHost: t2m\r\nAuthorization: Bearer {world.token()}\r\n\r\n"
                writer.write(head.encode())
                answer = await reader.readuntil(b"\r\n\r\n")
                assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
                assert (b"text/event-stream" in answer) == (method == "HEAD")


async def test_cancelling_ends_the_stream(world: World) -> None:
    job_id = await world.generate()
    async with streaming(world, job_id) as stream:
        await post(world, f"/jobs/{job_id}/cancel")
        assert [event["event"] for event in await stream.rest()] == ["cancelled"]


async def test_a_silent_stream_has_heartbeats(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "HEARTBEAT_S", 0.02)
    job_id = await world.generate()
    async with streaming(world, job_id) as stream:
        reading = asyncio.create_task(stream.event())

        async def beaten() -> bool | None:
            return len(stream.comments) >= 3 or None

        await until(beaten)
        await world.work(world.worker.tell, job_id, EventKind.STARTED, Stage.RENDER)
        event = await reading
    assert event is not None
    assert event["event"] == "started"


async def test_lost_news_are_found_by_polling(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "POLL_S", 0.05)
    monkeypatch.setattr(world.gateway.feeds, "tell", lambda job_ids: None)
    job_id = await world.generate()
    async with streaming(world, job_id) as stream:
        await world.work(world.worker.render_half, job_id)
        assert [(await stream.event() or {})["id"] for _ in range(2)] == [1, 2]


async def test_a_stream_that_lags_behind_reads_from_the_database(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "KEPT", 3)
    monkeypatch.setattr(feeds, "READ_AT_ONCE", 7)
    job_id = await world.generate()
    for n in range(60):
        world.worker.tell(job_id, EventKind.PROGRESS, Stage.RENDER, n, fraction=n / 60)
    async with streaming(world, job_id) as early:
        await logged(world, job_id, 60)
        await world.work(world.worker.fail, job_id)
        async with streaming(world, job_id) as late:
            assert [event["id"] for event in await late.rest()] == list(range(1, 62))
        assert [event["id"] for event in await early.rest()] == list(range(1, 62))


async def test_streams_end_when_their_time_is_up_or_the_gateway_stops(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await world.generate()
    async with streaming(world, job_id) as stream:
        world.gateway.feeds.close()
        assert await stream.rest() == []
    world.gateway.feeds.closed = False
    monkeypatch.setattr(routes, "STREAM_S", 0.05)
    async with streaming(world, job_id) as stream:
        assert await stream.rest() == []


async def test_watchers_are_forgotten_when_they_leave(world: World) -> None:
    job_id = await world.generate()
    async with streaming(world, job_id) as stream, streaming(world, job_id):
        await world.work(world.worker.tell, job_id, EventKind.STARTED, Stage.RENDER)
        assert await stream.event() is not None
        assert world.gateway.feeds.watchers == 2
    await world.work(world.worker.tell, job_id, EventKind.FINISHED, Stage.RENDER, 1)

    async def nobody() -> bool | None:
        return world.gateway.feeds.watchers == 0 or None

    await until(nobody)


async def test_who_may_not_see_a_job_may_not_watch_it(world: World) -> None:
    theirs = await world.generate("bob")
    for job_id in (UNKNOWN, theirs):
        await error(await world.get(f"/jobs/{job_id}/events"), 404, "RESOURCE_NOT_FOUND")
    await error(await world.client.get(f"{API}/jobs/{theirs}/events"), 401, "AUTH_REQUIRED")


@pytest.mark.parametrize("given", ["x", "-1", "1" * 10, "1.5"])
async def test_a_wrong_last_event_id_is_refused(world: World, given: str) -> None:
    told = await error(await world.get(f"/jobs/{UNKNOWN}/events", Last_Event_ID=given), 400, "VALIDATION_ERROR")
    assert list(told["details"]) == ["Last-Event-ID"]


async def test_what_one_gateway_projects_is_seen_at_every_other(open_world: OpenWorld) -> None:
    first, second = await open_world(), await open_world()
    job_id = await first.generate()
    async with streaming(first, job_id) as here, streaming(second, job_id) as there:
        await first.work(first.worker.complete, job_id)
        assert await here.rest() == await there.rest()


@given(
    start=st.integers(0, 5),
    batches=st.lists(st.integers(0, 120), max_size=8),
    seen=st.integers(0, 400),
)
@hypothesis.settings(suppress_health_check=[HealthCheck.too_slow])
def test_a_feed_has_all_frames_after_its_start(start: int, batches: list[int], seen: int) -> None:
    feed, upcoming = Feed(start, start), start + 1
    for size in batches:
        new = [Frame(seq, b"", False) for seq in range(max(upcoming - 2, 1), upcoming + size)]  # with repeats
        feed.append(new)
        upcoming += size
    assert feed.end == upcoming - 1
    assert len(feed.frames) <= feeds.KEPT
    after = max(seen, feed.start)
    assert [frame.seq for frame in feed.after(after)] == list(range(after + 1, upcoming))


def test_a_stream_ends_with_the_verdict_whatever_was_said_after_it() -> None:
    said, verdict, late = Frame(1, b"", False), Frame(2, b"", True), Frame(3, b"", False)
    assert sse.up_to_the_end([said, verdict, late]) == [said, verdict]
    assert sse.up_to_the_end([said]) == [said]
    assert sse.up_to_the_end([]) == []
