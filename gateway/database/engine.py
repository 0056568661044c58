"""Connections and transactions, on SQLite and PostgreSQL alike."""

from __future__ import annotations

import asyncio
import sqlite3
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, cast

from sqlalchemy import URL, Connection, CursorResult, Engine, Executable, create_engine, event, make_url, text
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.exc import DataError, DBAPIError, DisconnectionError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, NullPool

from gateway.database.driver import Driver, PostgresDriver, Raw, SqliteDriver, Version

BUSY_TIMEOUT_MS = 10_000
"""How long a writer waits for another process that holds SQLite's one write lock; a transaction takes milliseconds."""
CONNECTIONS = 10
CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_S = 30
IDLE_S = 5.0
"""A connection used within this time is taken to live; one that does not costs the answers it was used for 503."""
WAL_PAUSES_S = (0.01, 0.03, 0.1, 0.3)
"""Between tries to change the mode of a new SQLite file, which takes another process about a millisecond."""
DISCREET: dict[str, Any] = {"hide_parameters": True}
"""Values, among them secrets and prompts, are in no error and so in no log."""
USED_AT = "t2m_used_at"
READ_ONLY = text("SELECT current_setting('transaction_read_only') FROM alembic_version")
"""On for a standby as well."""
LOCK = text("SELECT pg_advisory_xact_lock(:space, :number)")
FREE_LOCKS = text(
    "SELECT number, set_config('lock_timeout', '200', true) FROM unnest(CAST(:numbers AS int[])) AS number"
    " WHERE pg_try_advisory_xact_lock(:space, number)"
)
"""Milliseconds; less than the second after which PostgreSQL looks for deadlocks."""
LOCK_SPACE = 0x72D


class Inline:
    """As much of an `AsyncConnection` as reading takes, over Python's own SQLite driver in the event loop's thread.

    A read takes microseconds, as neither a writer nor a network makes it wait. In a thread of its own each call of the
    driver costs two changes of threads, and a statement makes several.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection, self.dialect = connection, connection.dialect

    async def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]:  # noqa: ANN401
        """See `AsyncConnection.execute`."""
        return self._connection.execute(statement, parameters)


class Database:
    """The engines of two kinds of transactions.

    `read` only reads, each statement what was committed before it; `write` takes SQLite's write lock at once, so that
    it never fails half-way because another writer was faster. Both roll back on an exception.
    """

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        self.dialect = self.engine.dialect.name
        """ "sqlite" or "postgresql"."""
        self._driver: Driver
        if self.dialect == "sqlite":
            self._inline = _inline_sqlite(self.engine.url)
            self._aside = _aside_sqlite(self.engine.url)
            self._driver = SqliteDriver(self._inline)
        else:  # each statement of a transaction has a snapshot of its own anyway: two round trips can be spared
            self._reader = self.engine.execution_options(isolation_level="AUTOCOMMIT")
            self._driver = PostgresDriver(self._reader)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Statements that only read."""
        if self.dialect == "sqlite":
            with self._inline.connect() as connection:
                yield cast(AsyncConnection, Inline(connection))
        else:
            async with self._reader.connect() as connection:
                yield connection

    @asynccontextmanager
    async def survey(self) -> AsyncIterator[AsyncConnection]:
        """As `read`, for statements that take long: on SQLite they are run in a thread of their own."""
        if self.dialect == "sqlite":
            async with self._aside.connect() as connection:
                yield connection
        else:
            async with self.read() as connection:
                yield connection

    def rows(self, statement: str, parameters: Raw) -> Awaitable[Sequence[Raw]]:
        """See `gateway.database.driver`."""
        return self._driver.rows(statement, parameters)

    def version(self) -> Awaitable[Version]:
        """See `gateway.database.driver`."""
        return self._driver.version()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes; committed at the end of the block."""
        async with self.engine.begin() as connection:
            yield connection

    async def lock(self, connection: AsyncConnection, name: str) -> None:
        """Exclude every other holder of the lock `name` until `connection`'s write transaction ends.

        SQLite needs none: its write transactions exclude each other. PostgreSQL's locks have numbers: names that share
        one wait for each other.
        """
        if self.dialect == "postgresql":
            await connection.execute(LOCK, {"space": LOCK_SPACE, "number": _number(name)})

    async def lock_free(self, connection: AsyncConnection, names: Collection[str]) -> set[str]:
        """As `lock`, of those locks that nobody holds; which they were. Later the transaction waits 0.2 s for anything
        that another one holds, such as a row that is being inserted, and then fails (SQLSTATE 55P03).
        """
        if self.dialect != "postgresql":
            return set(names)
        numbers = {name: _number(name) for name in names}
        asked = {"space": LOCK_SPACE, "numbers": list(set(numbers.values()))}
        locked = set((await connection.execute(FREE_LOCKS, asked)).scalars())
        return {name for name, number in numbers.items() if number in locked}

    async def notify(self, connection: AsyncConnection, channel: str, notice: str) -> None:
        """Send a notice of at most 8000 bytes when `connection`'s transaction is committed; on SQLite to nobody."""
        if self.dialect == "postgresql":
            await connection.execute(
                text("SELECT pg_notify(:channel, :notice)"), {"channel": channel, "notice": notice}
            )

    async def listen(self, channel: str, heard: Callable[[str], None]) -> None:
        """Call `heard` with each notice on a channel of PostgreSQL, until cancelled.

        Raises:
            ConnectionError: the connection was lost, and notices may be with it.
        """
        async with self.engine.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            lost = asyncio.Event()
            driver.add_termination_listener(lambda _: lost.set())
            await driver.add_listener(channel, lambda *notice: heard(notice[-1]))
            try:
                await lost.wait()
                raise ConnectionError("The connection that listens to the database was lost.")
            finally:
                await connection.invalidate()  # it goes on listening, so nobody else may have it

    async def analyze(self) -> None:
        """Measure the tables anew, for better query plans."""
        async with self.write() as connection:
            await connection.execute(text("ANALYZE"))

    async def ping(self) -> None:
        """Read a row, on SQLite from the file: what is open lives on in memory when that is gone.

        Raises:
            SQLAlchemyError, sqlite3.Error, OSError: it cannot be read, or PostgreSQL takes no writes.
        """
        if self.dialect == "sqlite":
            file = Path(str(self.engine.url.database)).absolute().as_uri()
            with closing(sqlite3.connect(f"{file}?mode=rw", uri=True)) as opened:
                opened.execute("SELECT version_num FROM alembic_version").fetchone()
        else:
            async with self.read() as connection:
                if (await connection.execute(READ_ONLY)).scalar_one() == "on":
                    raise ConnectionError("The database only reads.")

    async def close(self) -> None:
        """Close all connections."""
        await self._driver.close()
        await self.engine.dispose()
        if self.dialect == "sqlite":
            self._inline.dispose()


def _number(lock: str) -> int:
    return zlib.crc32(lock.encode()) >> 1


def refuses(error: DBAPIError | OverflowError) -> bool:
    """Whether the database was reached and cannot hold a value (SQLSTATE class 22): trying again would not help."""
    if isinstance(error, OverflowError | DataError):
        return True
    return _sqlstate(error).startswith("22") or isinstance(getattr(error.orig, "__cause__", None), ValueError)


def away(error: DBAPIError) -> bool:
    """Whether another try may help: the database was lost, or says that it starts, stops, only reads, has no room for
    one more connection, or gave a transaction up for another.

    SQLSTATE classes 08 (connection), 40 (rollback), 53 (resources), 57 (an operator's intervention); 25006: a standby.
    """
    state = _sqlstate(error)
    return error.connection_invalidated or state[:2] in ("08", "40", "53", "57") or state == "25006"


def _sqlstate(error: DBAPIError) -> str:
    """SQLAlchemy wraps the driver's error, `gateway.database.driver` does not."""
    return str(getattr(error.orig, "sqlstate", None) or getattr(getattr(error.orig, "__cause__", None), "sqlstate", ""))


def _engine(url: str) -> AsyncEngine:
    if make_url(url).get_backend_name() == "sqlite":
        return _sqlite(url)
    arguments = {"timeout": CONNECT_TIMEOUT_S, "command_timeout": STATEMENT_TIMEOUT_S}
    # The last used first: each connection keeps what it prepared for its statements.
    engine = create_async_engine(url, pool_size=CONNECTIONS, pool_use_lifo=True, connect_args=arguments, **DISCREET)
    event.listen(engine.sync_engine, "checkin", _note_use)
    event.listen(engine.sync_engine, "checkout", _check_idle)
    return engine


def _note_use(_connection: object, record: ConnectionPoolEntry) -> None:
    record.info[USED_AT] = time.monotonic()


def _check_idle(connection: Any, record: ConnectionPoolEntry, _: object) -> None:  # noqa: ANN401 - any DBAPI connection
    """Ask a connection that was idle for long whether it lives; asking each time costs three round trips."""
    if time.monotonic() - record.info.get(USED_AT, float("inf")) < IDLE_S:
        return
    try:
        alive = PGDialect_asyncpg().do_ping(connection)  # type: ignore[no-untyped-call]
    except Exception as error:  # however it fails, it is of no use
        raise DisconnectionError from error
    if not alive:
        raise DisconnectionError


def _sqlite(url: str) -> AsyncEngine:
    parsed = make_url(url)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        _use_wal(parsed)
    # Writers of a process wait for one connection, in turn. If each had its own and waited in SQLite, the event loop
    # could stop at it, collecting a failed statement as garbage, while the writer it waits for needs the loop.
    engine = create_async_engine(parsed, pool_size=1, max_overflow=0, poolclass=AsyncAdaptedQueuePool, **DISCREET)
    event.listen(engine.sync_engine, "connect", _configure_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _inline_sqlite(url: URL) -> Engine:
    unlimited = {"pool_size": CONNECTIONS, "max_overflow": -1}  # waiting for a connection would stop the loop
    engine = create_engine(url.set(drivername="sqlite"), **unlimited, **DISCREET)
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "connect", _only_read)
    return engine


def _aside_sqlite(url: URL) -> AsyncEngine:
    engine = create_async_engine(url, poolclass=NullPool, **DISCREET)
    event.listen(engine.sync_engine, "connect", _configure_sqlite)
    event.listen(engine.sync_engine, "connect", _only_read)
    return engine


def _configure_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - any DBAPI connection
    connection.isolation_level = None  # the driver would begin transactions by itself, and too late
    _set(
        connection,
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "synchronous=FULL",  # an accepted job survives a power cut
        "foreign_keys=ON",
    )


def _use_wal(url: URL) -> None:
    """Let readers go on while one writes, from now on: the mode is a property of the file.

    Who changes the mode of a new file does not wait for others who do so, but fails.
    """
    engine = create_engine(url.set(drivername="sqlite"), poolclass=NullPool)
    for pause_s in (*WAL_PAUSES_S, None):
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            return
        except OperationalError:
            if pause_s is None:
                raise
            time.sleep(pause_s)


def _only_read(connection: Any, _record: object) -> None:  # noqa: ANN401 - any DBAPI connection
    _set(connection, "query_only=ON")


def _set(connection: Any, *pragmas: str) -> None:  # noqa: ANN401 - any DBAPI connection
    cursor = connection.cursor()
    for pragma in pragmas:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
