"""Holds users to their limits."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from contextvars import ContextVar
from datetime import datetime, timedelta
from ipaddress import ip_address, ip_network

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from config.settings import LimitSettings
from gateway.database import allowances
from gateway.database.allowances import Use
from gateway.database.engine import Database
from gateway.limits.counters import Counter, new_mark
from gateway.limits.policy import WINDOW, Limit, Standing, exceeded
from pipeline.vocabulary import now

GRANTS_KEPT_S = 5.0
"""A user's own limits for requests hold so long after they were changed at the latest; for jobs and uploads at once."""
GRANTS_KEPT = 10_000
Grants = Mapping[str, int]
NEVER: tuple[float, Grants] = float("-inf"), {}

told: ContextVar[list[Standing] | None] = ContextVar("told", default=None)
"""Where the request stands with each limit it was counted for; set by the middleware, read for the headers."""


class Pass:
    """A request that was let through; can be taken back when it turns out not to count."""

    def __init__(self, counter: Counter, subject: str, mark: str) -> None:
        self._counter, self._subject, self._mark = counter, subject, mark

    async def void(self) -> None:
        """It does not count."""
        await self._counter.give_back(self._subject, self._mark)


class Limiter:
    """Requests are counted by a counter, jobs and uploads in the transaction that makes them."""

    def __init__(self, settings: LimitSettings, database: Database, counter: Counter) -> None:
        self._database, self._counter = database, counter
        self._default: dict[Limit, int] = {limit: getattr(settings, limit) for limit in Limit}
        self._grants: OrderedDict[str, tuple[float, Grants]] = OrderedDict()

    async def admit(self, limit: Limit, user_id: str) -> Pass:
        """Count a request of a user. Raises `ApiError` 429."""
        read_at, grants = self._grants.get(user_id, NEVER)
        if time.monotonic() - read_at > GRANTS_KEPT_S:
            grants = await self._read_grants(user_id, grants)
        return await self._admit(limit, f"{limit.value}:user:{user_id}", grants.get(limit, self._default[limit]))

    async def admit_stranger(self, limit: Limit, address: str) -> Pass:
        """Count a request of who knows whom, by the address it came from. Raises `ApiError` 429."""
        return await self._admit(limit, f"{limit.value}:address:{_site(address)}", self._default[limit])

    async def _admit(self, limit: Limit, subject: str, quota: int) -> Pass:
        mark = new_mark()
        allowed, remaining, reset_s = await self._counter.take(subject, quota, mark)
        tell(standing := Standing(limit, quota, remaining, reset_s))
        if not allowed:
            raise exceeded(standing)
        return Pass(self._counter, subject, mark)

    async def foresee(self, limit: Limit, user_id: str) -> None:
        """Raises `ApiError` 429 if `charge` would, before work is done for nothing."""
        async with self._database.read() as connection:
            standing = (await self._standings(connection, limit, [user_id]))[user_id]
        if standing.remaining == 0:
            tell(standing)
            raise exceeded(standing)

    async def charge(self, connection: AsyncConnection, limit: Limit, user_id: str) -> None:
        """Count a job or an upload in the write transaction `connection` that makes it, so both stand or fall together.

        Raises:
            ApiError: 429; the transaction is to be rolled back.
        """
        standing = await self.hold(connection, limit, user_id)
        if standing.remaining == 0:
            tell(standing)
            raise exceeded(standing)
        await self.use(connection, limit, [user_id])
        tell(standing.after_one_more())

    async def hold(self, connection: AsyncConnection, limit: Limit, user_id: str) -> Standing:
        """Where a user stands, until the write transaction `connection` ends: nobody else counts for them meanwhile."""
        await self._database.lock(connection, _lock(limit, user_id))
        return (await self._standings(connection, limit, [user_id]))[user_id]

    async def hold_free(
        self, connection: AsyncConnection, limit: Limit, user_ids: Collection[str]
    ) -> dict[str, Standing]:
        """As `hold`, of those users whom no other transaction holds; waits for none, see `Database.lock_free`."""
        free = await self._database.lock_free(connection, [_lock(limit, user_id) for user_id in user_ids])
        return await self._standings(connection, limit, [one for one in user_ids if _lock(limit, one) in free])

    async def use(self, connection: AsyncConnection, limit: Limit, user_ids: Iterable[str]) -> None:
        """Count one more for each of some users who are held; one may be named several times."""
        await allowances.use(connection, user_ids, limit, now())

    async def close(self) -> None:
        """Release the counter's connections."""
        await self._counter.close()

    async def _read_grants(self, user_id: str, known: Grants) -> Grants:
        """While the database is away, what was known last holds, or the deployment's limits."""
        try:
            async with self._database.read() as connection:
                known = await allowances.granted(connection, user_id)
        except (SQLAlchemyError, OSError):
            pass
        self._grants[user_id] = time.monotonic(), known
        self._grants.move_to_end(user_id)
        if len(self._grants) > GRANTS_KEPT:
            self._grants.popitem(last=False)
        return known

    async def _standings(
        self, connection: AsyncConnection, limit: Limit, user_ids: Collection[str]
    ) -> dict[str, Standing]:
        at = now()
        uses = await allowances.used(connection, user_ids, limit, at - WINDOW)
        return {user_id: self._standing(limit, use, at) for user_id, use in uses.items()}

    def _standing(self, limit: Limit, use: Use, at: datetime) -> Standing:
        quota = self._default[limit] if use.quota is None else use.quota
        reset_s = max(((use.first or at) + WINDOW - at) / timedelta(seconds=1), 0.0)
        return Standing(limit, quota, max(quota - use.count, 0), reset_s)


def _lock(limit: Limit, user_id: str) -> str:
    return f"{limit}:{user_id}"


def _site(address: str) -> str:
    """Whom an address stands for: of IPv6, everybody has a network of 64 bits at least (RFC 6177)."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return address if parsed.version == 4 else str(ip_network((parsed, 64), strict=False))


def tell(standing: Standing) -> None:
    """Note where the request stands, for the headers of its answer."""
    standings = told.get()
    if standings is not None:
        standings.append(standing)
