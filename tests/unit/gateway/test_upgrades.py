"""Two releases side by side: each reads what the other writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import Connection, inspect

import gateway.sidecars
import pipeline.dead_letters  # noqa: F401 - defines words
from gateway.database import migrate
from gateway.database.engine import Database
from pipeline.vocabulary import Word
from tests.unit.gateway.test_database import database

__all__ = ["database"]

WRITTEN: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("words_0_1.json").read_text())
"""As release 0.1 writes them, every field set."""
SCHEMA = "0008"
"""Migration before which no gateway runs beside one of today. To be moved with each release to that of the last one."""


def words(kind: type[Word] = Word) -> Iterator[type[Word]]:
    """All kinds of messages and records."""
    for each in kind.__subclasses__():
        if each.__module__.startswith(("pipeline", "gateway")):
            yield each
            yield from words(each)


KINDS = sorted(words(), key=lambda kind: kind.__name__)


def kept(written: Any, read: Any) -> bool:
    """Whether all that was written was understood; what is new is left to its default."""
    if isinstance(written, dict):
        return all(name in read and kept(value, read[name]) for name, value in written.items())
    if isinstance(written, list):
        return len(written) == len(read) and all(kept(*pair) for pair in zip(written, read, strict=True))
    return bool(written == read)


def test_every_word_has_an_example() -> None:
    assert {kind.__name__ for kind in KINDS} == WRITTEN.keys()
    assert gateway.sidecars.JobLog in KINDS


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_the_last_release_wrote_is_understood(kind: type[Word]) -> None:
    written = WRITTEN[kind.__name__]
    assert kept(written, kind.model_validate_json(json.dumps(written)).model_dump(mode="json"))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_fields_of_the_next_release_are_ignored(kind: type[Word]) -> None:
    written = WRITTEN[kind.__name__]
    later = json.dumps(written | {"of_the_next_release": {"x": [1]}})
    assert kind.model_validate_json(later) == kind.model_validate_json(json.dumps(written))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_another_version_is_refused(kind: type[Word]) -> None:
    with pytest.raises(ValidationError, match="version"):
        kind.model_validate_json(json.dumps(WRITTEN[kind.__name__] | {"version": 2}))


async def test_gateways_of_the_last_release_work_on_todays_schema(database: Database) -> None:
    """All they use is there, in the same types, and what is new may be left out."""
    await migrate.upgrade(database, SCHEMA)
    old = await columns(database)
    await migrate.upgrade(database)
    new = await columns(database)
    assert {name: new[name]["type"] for name in old} == {name: column["type"] for name, column in old.items()}
    used = {table for table, _ in old}
    for (table, column), known in new.items():
        if table in used and (table, column) not in old:
            assert known["nullable"] or known["default"] is not None, f"{table}.{column}"


async def columns(database: Database) -> dict[tuple[str, str], dict[str, Any]]:
    def read(connection: Connection) -> dict[tuple[str, str], dict[str, Any]]:
        inspector = inspect(connection)
        return {
            (table, column["name"]): {**column, "type": str(column["type"])}
            for table in inspector.get_table_names()
            for column in inspector.get_columns(table)
        }

    async with database.write() as connection:
        return await connection.run_sync(read)
