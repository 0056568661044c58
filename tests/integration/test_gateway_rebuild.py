"""The rebuild once more on PostgreSQL and S3."""

from __future__ import annotations

import pytest

from tests.unit.gateway.fixtures import broker, bus, open_world, settings, store, world
from tests.unit.gateway.test_rebuild import (
    open_site,
    test_a_job_goes_on_with_the_epoch_after_that_of_its_render,
    test_a_log_that_cannot_be_kept_holds_up_no_other,
    test_a_log_that_was_not_kept_is_told_by_the_records,
    test_a_stage_that_was_done_is_not_repeated,
    test_a_sweep_before_the_rebuild_takes_nothing,
    test_an_upload_that_is_refused_leaves_no_record,
    test_logs_are_kept_once_and_not_of_deleted_jobs,
    test_rows_that_are_there_are_left_alone,
    test_what_cannot_be_read_is_named_and_the_rest_restored,
    test_what_was_dropped_comes_back,
)

__all__ = [
    "broker",
    "bus",
    "open_site",
    "open_world",
    "settings",
    "store",
    "test_a_job_goes_on_with_the_epoch_after_that_of_its_render",
    "test_a_log_that_cannot_be_kept_holds_up_no_other",
    "test_a_log_that_was_not_kept_is_told_by_the_records",
    "test_a_stage_that_was_done_is_not_repeated",
    "test_a_sweep_before_the_rebuild_takes_nothing",
    "test_an_upload_that_is_refused_leaves_no_record",
    "test_logs_are_kept_once_and_not_of_deleted_jobs",
    "test_rows_that_are_there_are_left_alone",
    "test_what_cannot_be_read_is_named_and_the_rest_restored",
    "test_what_was_dropped_comes_back",
    "world",
]


@pytest.fixture
def servers() -> tuple[str, ...]:
    return ("postgres", "s3")
