"""Statements in the words of a database's own driver, for what is asked very often: SQLAlchemy takes several times as
long over one. Each keeps one connection, and answers with rows as the driver gives them.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from typing import Any, Protocol, cast

import asyncpg
from sqlalchemy import Engine, PoolProxiedConnection
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

Raw = tuple[Any, ...]
"""A row as the driver gives it."""

Version = Sequence[Raw] | None
"""Differs from an earlier one if anybody has written meanwhile; None where the database does not tell."""


class Driver(Protocol):
    """One connection."""

    async def rows(self, statement: str, parameters: Raw) -> Sequence[Raw]:
        """What a statement finds. Raises SQLAlchemyError or OSError."""

    async def version(self) -> Version:
        """Of what the next statement would read. Raises as `rows` does."""

    async def close(self) -> None:
        """Give the connection back."""


class SqliteDriver:
    """Python's own, in the event loop's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._held: PoolProxiedConnection | None = None

    async def rows(self, statement: str, parameters: Raw) -> Sequence[Raw]:
        """See `Driver.rows`."""
        try:
            if self._held is None:
                self._held = self._engine.raw_connection()
                self._execute = cast(sqlite3.Connection, self._held.driver_connection).execute
            return self._execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            raise DBAPIError.instance(statement, None, error, sqlite3.Error, hide_parameters=True) from error

    async def version(self) -> Version:
        """See `Driver.version`; takes half as long as a row."""
        return await self.rows("PRAGMA data_version", ())

    async def close(self) -> None:
        """See `Driver.close`."""
        if self._held is not None:
            self._held.close()
            self._held = None


class PostgresDriver:
    """asyncpg; who comes while another is asking waits. A connection that failed is not used again."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._one_by_one = asyncio.Lock()
        self._held: AsyncConnection | None = None
        self._connection: Any = None

    async def rows(self, statement: str, parameters: Raw) -> Sequence[Raw]:
        """See `Driver.rows`."""
        async with self._one_by_one:
            try:
                if self._held is None or self._connection.is_closed():
                    await self._connect()
                return [tuple(row) for row in await self._connection.fetch(statement, *parameters)]
            except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
                await self._drop()
                raise InterfaceError(statement, None, error, hide_parameters=True) from error
            except asyncpg.PostgresError as error:
                await self._drop()
                raise DBAPIError(statement, None, error, hide_parameters=True) from error
            except BaseException:  # it may be silent for ever
                await self._drop()
                raise

    async def version(self) -> Version:
        """See `Driver.version`."""
        return None

    async def close(self) -> None:
        """See `Driver.close`."""
        await self._drop()

    async def _connect(self) -> None:
        await self._drop()
        self._held = await self._engine.connect()
        self._connection = (await self._held.get_raw_connection()).driver_connection

    async def _drop(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            await held.invalidate()
            await held.close()
