"""Questions about many values."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select
from sqlalchemy.ext.asyncio import AsyncConnection

VALUES = 500
"""In one statement."""


def padded(wanted: Collection[str]) -> list[str]:
    """The last is repeated up to a power of two of them: each connection keeps what it prepared for a hundred
    statements, and each number of values makes a statement of its own.
    """
    values = list(wanted)
    most = 1 << (len(values) - 1).bit_length() if values else 0
    return values + values[-1:] * (most - len(values))


def one_of(column: ColumnElement[str], wanted: Collection[str]) -> ColumnElement[bool]:
    """Whether `column` has one of the wanted values."""
    return column.in_(padded(wanted))


async def among(
    connection: AsyncConnection, query: Select[Any], column: ColumnElement[str], wanted: Sequence[str]
) -> set[str]:
    """What `query`, of one column, finds where `column` has one of the wanted values."""
    found: set[str] = set()
    for start in range(0, len(wanted), VALUES):
        rows = await connection.execute(query.where(one_of(column, wanted[start : start + VALUES])))
        found |= set(rows.scalars())
    return found
