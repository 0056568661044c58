"""Which errors of the parts below are the client's, the server's, or nobody's for a while."""

from __future__ import annotations

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError

from gateway.errors import translate


def refused(cause: asyncpg.PostgresError) -> DBAPIError:
    """As SQLAlchemy's asyncpg dialect raises it."""
    translated = Exception(str(cause))
    translated.__cause__ = cause
    return DBAPIError("SELECT 1", None, translated)


@pytest.mark.parametrize(
    "cause",
    [
        asyncpg.CannotConnectNowError("the database system is shutting down"),
        asyncpg.AdminShutdownError("terminating connection due to administrator command"),
        asyncpg.TooManyConnectionsError("sorry, too many clients already"),
    ],
)
def test_a_database_that_starts_stops_or_is_full_is_away(cause: asyncpg.PostgresError) -> None:
    error = translate(refused(cause))
    assert error is not None and error.status == 503


def test_a_wrong_statement_is_foreseen_by_nobody() -> None:
    assert translate(refused(asyncpg.UndefinedColumnError("there is no such column"))) is None
