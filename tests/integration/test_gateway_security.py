"""What means harm once more, and the fuzzing, on PostgreSQL, RabbitMQ, Redis and S3."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.settings import Settings
from tests.unit.gateway.fixtures import broker, bus, open_world, settings, store, world
from tests.unit.gateway.no_op import serving
from tests.unit.gateway.test_foreign_ids import (
    adas,
    test_nor_is_it_in_lists,
    test_what_is_another_users_is_not_there,
)
from tests.unit.gateway.test_fuzz import fuzzed
from tests.unit.gateway.test_hostile_requests import (
    test_a_body_without_an_end_is_cut_off,
    test_nothing_a_client_sends_becomes_a_header,
)

__all__ = [
    "adas",
    "broker",
    "bus",
    "open_world",
    "settings",
    "store",
    "test_a_body_without_an_end_is_cut_off",
    "test_nor_is_it_in_lists",
    "test_nothing_a_client_sends_becomes_a_header",
    "test_what_is_another_users_is_not_there",
    "world",
]


@pytest.fixture
def servers() -> tuple[str, ...]:
    return ("rabbitmq", "s3", "postgres", "redis")


@pytest.mark.long
def test_what_a_schema_allows_and_forbids(settings: Settings, tmp_path: Path) -> None:
    """The stages run beside the gateway, so the broker alone is in memory."""
    store = settings.store
    s3 = store.model_dump(mode="json") | {
        "access_key": store.access_key.get_secret_value(),
        "secret_key": store.secret_key.get_secret_value(),
    }
    there = {"database": {"url": settings.database_url}, "redis": {"url": settings.redis.url.get_secret_value()}}
    with serving(tmp_path / "data", tmp_path / "log", store=s3, **there) as gateway:
        assert fuzzed(gateway, tmp_path, "--phases", "fuzzing", "--max-examples", "12") >= 500
