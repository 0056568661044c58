"""Job management once more on PostgreSQL, RabbitMQ and S3."""

from __future__ import annotations

import asyncio

import pytest

from gateway import idempotency
from gateway.limits.policy import Limit
from tests.unit.gateway.fixtures import broker, bus, open_world, settings, store, world
from tests.unit.gateway.support import World
from tests.unit.gateway.test_acceptance import (
    test_a_receiver_hears_once_however_often_its_request_joins,
    test_a_request_sent_again_gets_the_first_answer,
    test_an_identical_request_joins_the_running_job,
    test_an_identical_request_shares_the_files_of_a_completed_job,
    test_expired_jobs_are_removed_with_their_data,
    test_keys_are_forgotten_after_a_day,
    test_simultaneous_requests_with_one_key_make_one_job,
)
from tests.unit.gateway.test_examples import test_the_python_example_of_job_management
from tests.unit.gateway.test_hls import (
    packaged,
    test_a_token_is_renewed_while_it_is_good_and_then_replaced,
    test_ffmpeg_plays_and_seeks_without_a_header,
    test_players_that_begin_together_get_one_token,
    video,
)
from tests.unit.gateway.test_jobs import (
    test_a_cancellation_whose_gateway_died_is_finished,
    test_a_job_that_ends_while_it_is_cancelled_keeps_its_verdict,
    test_a_job_that_is_deleted_while_its_video_is_asked_for_is_404,
    test_a_running_job_that_is_cancelled_is_decided_and_its_workers_hurried,
    test_deleting_removes_the_job_and_its_data,
    test_jobs_are_filtered_by_the_time_of_their_creation,
    test_jobs_are_listed_in_pages_newest_first,
    test_lists_show_the_results_of_completed_jobs,
    test_logs_are_cut_and_filtered,
    test_logs_tell_what_the_workers_did,
    test_simultaneous_cancellations_are_entered_once,
    test_the_shown_time_of_a_jobs_creation_is_within_both_bounds,
)
from tests.unit.gateway.test_outlook import (
    test_a_waiting_job_knows_its_place,
    test_the_eta_comes_from_measured_stage_times,
)
from tests.unit.gateway.test_registration import (
    entry,
    register,
    strict,
    test_all_stay_that_may_be_promised,
    test_each_has_its_receiver,
    test_none_is_promised_and_kept_while_the_database_is_away,
    test_of_two_with_one_key_one_is_entered,
    test_one_that_cannot_be_entered_fails_alone,
    test_one_whose_caller_is_gone_is_entered_or_forgotten,
    test_they_share_a_transaction,
    test_users_own_limits_hold_for_each,
    test_who_has_made_too_many_is_refused_and_nobody_else,
)

__all__ = [
    "broker",
    "bus",
    "open_world",
    "packaged",
    "settings",
    "store",
    "strict",
    "test_a_cancellation_whose_gateway_died_is_finished",
    "test_a_job_that_ends_while_it_is_cancelled_keeps_its_verdict",
    "test_a_job_that_is_deleted_while_its_video_is_asked_for_is_404",
    "test_a_receiver_hears_once_however_often_its_request_joins",
    "test_a_request_sent_again_gets_the_first_answer",
    "test_a_running_job_that_is_cancelled_is_decided_and_its_workers_hurried",
    "test_a_token_is_renewed_while_it_is_good_and_then_replaced",
    "test_a_waiting_job_knows_its_place",
    "test_all_stay_that_may_be_promised",
    "test_an_identical_request_joins_the_running_job",
    "test_an_identical_request_shares_the_files_of_a_completed_job",
    "test_deleting_removes_the_job_and_its_data",
    "test_each_has_its_receiver",
    "test_expired_jobs_are_removed_with_their_data",
    "test_ffmpeg_plays_and_seeks_without_a_header",
    "test_jobs_are_filtered_by_the_time_of_their_creation",
    "test_jobs_are_listed_in_pages_newest_first",
    "test_keys_are_forgotten_after_a_day",
    "test_lists_show_the_results_of_completed_jobs",
    "test_logs_are_cut_and_filtered",
    "test_logs_tell_what_the_workers_did",
    "test_none_is_promised_and_kept_while_the_database_is_away",
    "test_of_two_with_one_key_one_is_entered",
    "test_one_that_cannot_be_entered_fails_alone",
    "test_one_whose_caller_is_gone_is_entered_or_forgotten",
    "test_players_that_begin_together_get_one_token",
    "test_simultaneous_cancellations_are_entered_once",
    "test_simultaneous_requests_with_one_key_make_one_job",
    "test_the_eta_comes_from_measured_stage_times",
    "test_the_python_example_of_job_management",
    "test_the_shown_time_of_a_jobs_creation_is_within_both_bounds",
    "test_they_share_a_transaction",
    "test_users_own_limits_hold_for_each",
    "test_who_has_made_too_many_is_refused_and_nobody_else",
    "video",
    "world",
]


@pytest.fixture
def servers() -> tuple[str, ...]:
    return ("rabbitmq", "s3", "postgres")


async def test_who_waits_for_another_gateway_makes_nobody_else_wait(world: World) -> None:
    """However many they are: more than there are connections."""
    theirs = [entry(world, "ada") for _ in range(30)]
    async with world.gateway.database.write() as elsewhere:
        await world.gateway.limiter.hold(elsewhere, Limit.JOBS, "ada")
        wait = asyncio.ensure_future(register(world, *theirs))
        for _ in range(3):
            assert await asyncio.wait_for(register(world, entry(world, "bob")), 10) == [None]
        assert not wait.done()
    assert await asyncio.wait_for(wait, 30) == [None] * 30


async def test_who_waits_for_a_key_makes_nobody_else_wait(world: World) -> None:
    ada, bob = entry(world, "ada", key="k"), entry(world, "bob", key="k")
    assert ada.attempt is not None
    with pytest.raises(asyncio.CancelledError):
        async with world.gateway.database.write() as elsewhere:
            await idempotency.keep(elsewhere, ada.attempt, ada.answer)
            waits, passes = asyncio.ensure_future(register(world, ada)), asyncio.ensure_future(register(world, bob))
            assert await asyncio.wait_for(passes, 10) == [None]
            assert not waits.done()
            raise asyncio.CancelledError
    assert await asyncio.wait_for(waits, 10) == [None]
