"""The gateway's own tests once more on PostgreSQL, RabbitMQ and S3: those that reach the servers."""

from __future__ import annotations

import pytest

from config.settings import Settings
from tests.unit.gateway.fixtures import OpenWorld, broker, bus, open_world, settings, store, world
from tests.unit.gateway.support import API, World, until
from tests.unit.gateway.test_api import (
    error,
    test_a_completed_job_in_full,
    test_a_failed_job_says_why,
    test_a_job_is_accepted_with_all_defaults_and_kept_in_the_store,
    test_events_of_unknown_jobs_are_dropped,
    test_health_is_public_and_measured,
    test_metadata_is_that_of_the_verdict,
    test_metrics_count_requests_jobs_and_events,
    test_status_follows_the_events,
    test_what_cannot_be_a_job_id_is_not_found,
)
from tests.unit.gateway.test_examples import (
    test_the_curl_examples,
    test_the_javascript_example_polls_until_the_end,
    test_the_python_example,
)
from tests.unit.gateway.test_media import (
    test_a_client_that_leaves_breaks_nothing,
    test_a_client_that_left_before_the_answer_is_no_error,
    test_a_client_that_takes_nothing_is_let_go_and_a_slow_one_is_not,
    test_a_lost_blob_is_an_error_with_no_half_answer,
    test_clients_that_do_not_read_hold_up_nobody,
    test_conditional_requests,
    test_many_clients_at_once_get_their_own_bytes,
    test_ranges_are_slices,
    test_the_whole_file_with_its_headers,
    test_variants_are_the_files_of_their_names,
)
from tests.unit.gateway.test_projection import test_events_survive_a_failing_projector

__all__ = [
    "broker",
    "bus",
    "open_world",
    "settings",
    "store",
    "test_a_client_that_leaves_breaks_nothing",
    "test_a_client_that_left_before_the_answer_is_no_error",
    "test_a_client_that_takes_nothing_is_let_go_and_a_slow_one_is_not",
    "test_a_completed_job_in_full",
    "test_a_failed_job_says_why",
    "test_a_job_is_accepted_with_all_defaults_and_kept_in_the_store",
    "test_a_lost_blob_is_an_error_with_no_half_answer",
    "test_clients_that_do_not_read_hold_up_nobody",
    "test_conditional_requests",
    "test_events_of_unknown_jobs_are_dropped",
    "test_events_survive_a_failing_projector",
    "test_health_is_public_and_measured",
    "test_many_clients_at_once_get_their_own_bytes",
    "test_metadata_is_that_of_the_verdict",
    "test_metrics_count_requests_jobs_and_events",
    "test_ranges_are_slices",
    "test_status_follows_the_events",
    "test_the_curl_examples",
    "test_the_javascript_example_polls_until_the_end",
    "test_the_python_example",
    "test_the_whole_file_with_its_headers",
    "test_variants_are_the_files_of_their_names",
    "test_what_cannot_be_a_job_id_is_not_found",
    "world",
]


@pytest.fixture
def servers() -> tuple[str, ...]:
    return ("rabbitmq", "s3", "postgres")


async def sends(world: World) -> float:
    """Confirmed sends of this gateway."""
    labels = {"model": "tiny", "outcome": "confirmed"}
    return world.gateway.metrics.registry.get_sample_value("t2m_dispatcher_sends_total", labels) or 0


async def test_two_gateways_share_the_work_and_each_shows_all_of_it(open_world: OpenWorld) -> None:
    first, second = await open_world(), await open_world()
    accepted = [await gateway.generate() for gateway in (first, second) for _ in range(3)]
    assert (await sends(first), await sends(second)) == (0, 0), "no worker is alive"
    for worker_id in ("gpu-1", "gpu-2", "gpu-3"):
        await first.work(first.worker.beat, worker_id)

    async def all_sent() -> bool | None:
        return await sends(first) + await sends(second) == len(accepted) or None

    await until(all_sent)
    for job_id in accepted:
        await first.work(first.worker.complete, job_id)
    for gateway in (first, second):
        for job_id in accepted:
            assert (await gateway.reached(job_id, "completed"))["progress"] == 100
    assert await sends(first) + await sends(second) == len(accepted), "none was sent twice"


@pytest.mark.parametrize("part", ["rabbitmq", "s3"])
async def test_health_names_the_server_that_is_down(
    world: World, request: pytest.FixtureRequest, settings: Settings, part: str
) -> None:
    server = request.getfixturevalue(part)
    server.pause()
    try:
        told = await error(await world.client.get(f"{API}/system/health"), 503, "SERVICE_UNAVAILABLE")
    finally:
        server.resume()
    assert told["details"]["unhealthy"] == [{"rabbitmq": "broker", "s3": "store"}[part]]
