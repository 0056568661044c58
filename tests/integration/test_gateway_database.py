"""Migrations, dispatcher and projector once more, on PostgreSQL."""

from __future__ import annotations

import pytest

from tests.unit.gateway.fixtures import settings, store
from tests.unit.gateway.test_database import (
    database,
    test_a_failed_migration_leaves_nothing_behind,
    test_gateways_that_start_together_migrate_once,
    test_the_migrations_make_what_the_code_declares,
    test_times_come_back_in_utc_whatever_zone_they_had,
    test_up_down_and_up_again,
    test_writers_of_many_connections_wait_for_each_other,
)

__all__ = [
    "database",
    "settings",
    "store",
    "test_a_failed_migration_leaves_nothing_behind",
    "test_gateways_that_start_together_migrate_once",
    "test_the_migrations_make_what_the_code_declares",
    "test_times_come_back_in_utc_whatever_zone_they_had",
    "test_up_down_and_up_again",
    "test_writers_of_many_connections_wait_for_each_other",
]


@pytest.fixture
def servers() -> tuple[str, ...]:
    return ("postgres",)
