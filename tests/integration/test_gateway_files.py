"""The gateway's own tests of files once more on PostgreSQL and S3, and what only two gateways show."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from gateway.sweep import sweep
from tests.unit.gateway.fixtures import OpenWorld, broker, bus, open_world, settings, store, world
from tests.unit.gateway.support import World
from tests.unit.gateway.test_files import (
    test_a_batch_has_a_result_for_each_file,
    test_a_cleanup_removes_what_meets_all_criteria_and_a_dry_run_nothing,
    test_a_client_that_leaves_in_the_middle_leaves_nothing,
    test_a_fault_midway_hides_nothing_that_was_stored,
    test_a_fetch_that_meets_a_deletion_leaves_nothing,
    test_a_file_does_not_expire_before_it_is_stored,
    test_a_video_is_a_file_of_its_owner,
    test_an_unknown_file_and_another_users_look_the_same,
    test_an_upload_is_done_once_for_each_key,
    test_an_upload_that_was_given_up_leaves_nothing,
    test_any_unicode_name_comes_back,
    test_fetches_are_counted_each_once,
    test_files_expire,
    test_files_of_all_sizes_are_stored_once_by_digest,
    test_lists_are_paged_and_filtered_and_have_the_videos_too,
    test_malformed_bodies,
    test_statistics_move_with_the_files,
    test_the_same_content_is_stored_once_and_each_file_lives_for_itself,
    test_too_large_is_refused_at_the_first_byte_too_many,
    test_uploads_are_limited_by_the_hour,
    test_what_arrives_at_once_is_within_the_quota,
    test_what_goes_in_comes_out,
    test_what_is_wrong_is_named_and_leaves_nothing,
)
from tests.unit.gateway.test_inspection import (
    test_a_broken_file_is_kept_and_called_unreadable,
    test_a_file_that_could_not_be_fetched_is_looked_into_later,
    test_an_upload_is_described_and_shown,
)
from tests.unit.gateway.test_signed_urls import (
    test_a_url_opens_the_file_without_a_token_and_is_counted,
    test_whatever_is_altered_is_refused,
)
from tests.unit.gateway.test_sweep import (
    small,
    test_a_blob_goes_with_its_last_reference_and_not_before,
    test_a_jobs_files_go_with_the_last_job_that_shares_them,
    test_however_many_jobs_there_are_few_are_held_at_a_time,
    test_in_any_order_every_live_download_stays_whole,
    test_thumbnails_go_with_their_file,
    test_uploads_and_sweeps_at_the_same_time_lose_nothing,
    test_what_an_unfinished_job_has_recorded_stays,
    test_what_died_on_its_way_in_is_swept,
)
from tests.unit.gateway.uploading import inspected, picture, upload

__all__ = [
    "broker",
    "bus",
    "open_world",
    "settings",
    "small",
    "store",
    "test_a_batch_has_a_result_for_each_file",
    "test_a_blob_goes_with_its_last_reference_and_not_before",
    "test_a_broken_file_is_kept_and_called_unreadable",
    "test_a_cleanup_removes_what_meets_all_criteria_and_a_dry_run_nothing",
    "test_a_client_that_leaves_in_the_middle_leaves_nothing",
    "test_a_fault_midway_hides_nothing_that_was_stored",
    "test_a_fetch_that_meets_a_deletion_leaves_nothing",
    "test_a_file_does_not_expire_before_it_is_stored",
    "test_a_file_that_could_not_be_fetched_is_looked_into_later",
    "test_a_jobs_files_go_with_the_last_job_that_shares_them",
    "test_a_url_opens_the_file_without_a_token_and_is_counted",
    "test_a_video_is_a_file_of_its_owner",
    "test_an_unknown_file_and_another_users_look_the_same",
    "test_an_upload_is_described_and_shown",
    "test_an_upload_is_done_once_for_each_key",
    "test_an_upload_that_was_given_up_leaves_nothing",
    "test_any_unicode_name_comes_back",
    "test_fetches_are_counted_each_once",
    "test_files_expire",
    "test_files_of_all_sizes_are_stored_once_by_digest",
    "test_however_many_jobs_there_are_few_are_held_at_a_time",
    "test_in_any_order_every_live_download_stays_whole",
    "test_lists_are_paged_and_filtered_and_have_the_videos_too",
    "test_malformed_bodies",
    "test_statistics_move_with_the_files",
    "test_the_same_content_is_stored_once_and_each_file_lives_for_itself",
    "test_thumbnails_go_with_their_file",
    "test_too_large_is_refused_at_the_first_byte_too_many",
    "test_uploads_and_sweeps_at_the_same_time_lose_nothing",
    "test_uploads_are_limited_by_the_hour",
    "test_what_an_unfinished_job_has_recorded_stays",
    "test_what_arrives_at_once_is_within_the_quota",
    "test_what_died_on_its_way_in_is_swept",
    "test_what_goes_in_comes_out",
    "test_what_is_wrong_is_named_and_leaves_nothing",
    "test_whatever_is_altered_is_refused",
    "world",
]


@pytest.fixture
def servers() -> tuple[str, ...]:
    return ("postgres", "s3")


async def test_two_gateways_take_in_count_and_sweep_as_one(open_world: OpenWorld) -> None:
    first, second = await open_world(), await open_world()

    async def again_and_again(world: World) -> str:
        for number in range(6):
            made = await upload(world, b"contended", f"{number}.txt")
            if number < 5:
                await world.client.delete(f"/api/v1/files/{made['id']}", headers=world.headers())
        return str(made["id"])

    swept = [0, 0]

    async def sweeping(number: int, world: World) -> None:
        while True:
            await sweep(world.gateway.store, world.gateway.database, timedelta(0))
            swept[number] += 1

    tasks = [asyncio.create_task(sweeping(*one)) for one in enumerate((first, second))]
    left = await asyncio.gather(again_and_again(first), again_and_again(second))
    assert all(swept) and not any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    for file_id in left:
        for gateway in (first, second):
            assert await (await gateway.get(f"/files/{file_id}/download")).read() == b"contended"
    assert (await first.data(f"/files/{left[0]}"))["download_count"] == 2
    pictures = [await upload(world, picture((64 + n, 64)), "a.png") for n, world in enumerate((first, second, first))]
    for made in pictures:
        assert (await inspected(second, made["id"]))["inspection"] == "ready"
