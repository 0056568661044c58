"""Dispatcher, projector and lookup once more, on PostgreSQL."""

from __future__ import annotations

import pytest

from tests.unit.gateway.fixtures import settings, store
from tests.unit.gateway.test_dispatcher import (
    database,
    embedded,
    scene,
    test_a_flood_by_one_user_does_not_hold_another_back,
    test_several_dispatchers_send_each_job_once_and_keep_the_limit,
    test_the_claim_of_a_dead_dispatcher_runs_out,
    test_turns_count_what_a_user_has_in_flight,
    test_two_jobs_per_worker_are_released,
)
from tests.unit.gateway.test_lookup import (
    test_a_job_is_what_sqlalchemy_reads_of_it,
    test_a_stranger_is_not_even_read_the_row,
    test_an_error_of_the_driver_is_one_of_sqlalchemys,
    test_an_unchanged_job_is_the_same_object_and_a_changed_one_is_not,
    test_many_at_once_each_get_their_own_job_and_nobody_elses,
)
from tests.unit.gateway.test_projection import (
    projector,
    test_a_message_with_what_the_database_cannot_hold_is_kept,
    test_an_event_the_database_refuses_does_not_stop_the_others,
    test_each_event_is_stored_once_and_numbered_without_gaps,
    test_the_store_decides_not_the_event,
    test_two_projectors_on_the_same_events_store_them_once,
)

__all__ = [
    "database",
    "embedded",
    "projector",
    "scene",
    "settings",
    "store",
    "test_a_flood_by_one_user_does_not_hold_another_back",
    "test_a_job_is_what_sqlalchemy_reads_of_it",
    "test_a_message_with_what_the_database_cannot_hold_is_kept",
    "test_a_stranger_is_not_even_read_the_row",
    "test_an_error_of_the_driver_is_one_of_sqlalchemys",
    "test_an_event_the_database_refuses_does_not_stop_the_others",
    "test_an_unchanged_job_is_the_same_object_and_a_changed_one_is_not",
    "test_each_event_is_stored_once_and_numbered_without_gaps",
    "test_many_at_once_each_get_their_own_job_and_nobody_elses",
    "test_several_dispatchers_send_each_job_once_and_keep_the_limit",
    "test_the_claim_of_a_dead_dispatcher_runs_out",
    "test_the_store_decides_not_the_event",
    "test_turns_count_what_a_user_has_in_flight",
    "test_two_jobs_per_worker_are_released",
    "test_two_projectors_on_the_same_events_store_them_once",
]


@pytest.fixture
def servers() -> tuple[str, ...]:
    return ("postgres",)
