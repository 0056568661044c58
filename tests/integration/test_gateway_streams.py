"""Streams of job events once more on PostgreSQL and RabbitMQ, where gateways hear of each other by notices."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from config.settings import Settings
from gateway import feeds
from tests.unit.gateway.fixtures import OpenWorld, broker, bus, open_world, settings, store, world
from tests.unit.gateway.support import World, until
from tests.unit.gateway.test_streams import (
    streaming,
    test_a_stream_ends_when_its_job_is_deleted_unseen,
    test_a_stream_is_resumed_after_the_last_event_id,
    test_a_stream_that_lags_behind_reads_from_the_database,
    test_cancelling_ends_the_stream,
    test_events_come_as_they_happen_and_the_stream_ends_with_the_job,
    test_events_of_a_newer_release_are_passed_over,
    test_pictures_leave_the_log_when_it_is_kept,
    test_what_one_gateway_projects_is_seen_at_every_other,
)

__all__ = [
    "broker",
    "bus",
    "open_world",
    "settings",
    "store",
    "test_a_stream_ends_when_its_job_is_deleted_unseen",
    "test_a_stream_is_resumed_after_the_last_event_id",
    "test_a_stream_that_lags_behind_reads_from_the_database",
    "test_cancelling_ends_the_stream",
    "test_events_come_as_they_happen_and_the_stream_ends_with_the_job",
    "test_events_of_a_newer_release_are_passed_over",
    "test_pictures_leave_the_log_when_it_is_kept",
    "test_what_one_gateway_projects_is_seen_at_every_other",
    "world",
]


@pytest.fixture
def servers() -> tuple[str, ...]:
    return ("rabbitmq", "postgres")


async def listeners(world: World) -> list[int]:
    """Server processes of the connections that listen."""
    query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
    async with world.gateway.database.read() as connection:
        return list((await connection.execute(text(query))).scalars())


async def test_notices_wake_a_gateway_that_projects_nothing_and_listening_is_resumed(
    open_world: OpenWorld, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "POLL_S", 1000)
    projecting = await open_world()
    watching = await open_world(
        settings.model_copy(update={"gateway": settings.gateway.model_copy(update={"roles": ("api",)})})
    )

    async def both_listen() -> list[int] | None:
        found = await listeners(watching)
        return found if len(found) == 2 else None

    job_id = await watching.generate()
    before = await until(both_listen)
    async with streaming(watching, job_id) as stream:
        await projecting.work(projecting.worker.render_half, job_id)
        assert [(await stream.event() or {})["event"] for _ in range(2)] == ["started", "progress"]
        async with watching.gateway.database.read() as connection:
            await connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM unnest(ARRAY{before}) AS pid"))

        async def listen_again() -> bool | None:
            return (set(await listeners(watching)).isdisjoint(before) and len(await listeners(watching)) == 2) or None

        await until(listen_again)
        await projecting.work(projecting.worker.complete, job_id)
        assert (await stream.rest())[-1]["event"] == "completed"
