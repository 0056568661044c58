"""Questions about more values than one statement takes parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select
from sqlalchemy.ext.asyncio import AsyncConnection

VALUES = 500
"""In one statement."""


async def among(
    connection: AsyncConnection, query: Select[Any], column: ColumnElement[str], wanted: Sequence[str]
) -> set[str]:
    """What `query`, of one column, finds where `column` has one of the wanted values."""
    found: set[str] = set()
    for start in range(0, len(wanted), VALUES):
        rows = await connection.execute(query.where(column.in_(wanted[start : start + VALUES])))
        found |= set(rows.scalars())
    return found
