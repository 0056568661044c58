"""Gateways killed by SIGKILL under load: what was accepted is carried out, once; and no secret is in their logs."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import aiohttp
import pytest
from sqlalchemy import func, select

from config.settings import Settings
from gateway.auth.local import LocalAuthenticator
from gateway.database.engine import Database
from gateway.database.tables import events, jobs
from pipeline.logging import secrets_of
from pipeline.vocabulary import Status
from tests.integration.gateways import Gateways, environment_of
from tests.integration.test_worker import RENDER, REST, Worker
from tests.unit.gateway.fixtures import settings
from tests.unit.gateway.support import API

__all__ = ["settings"]

CLIENTS = 4
KILLS = 20
MANY_IN_FLIGHT = {"T2M_GATEWAY__MAX_IN_FLIGHT_PER_WORKER": "50"}
END_S = 180
VERDICTS = ("completed", "failed", "cancelled")


@pytest.fixture
def servers() -> tuple[str, ...]:
    return ("rabbitmq", "postgres", "s3")


class Load:
    """Clients that ask for one job after the other, each with a key of its own, until an answer comes."""

    def __init__(self, gateways: Gateways, token: str) -> None:
        self._gateways, self._headers = gateways, {"Authorization": f"Bearer {token}"}
        self.accepted: dict[str, str] = {}
        self.repeated = 0
        self.enough = asyncio.Event()

    async def run(self) -> None:
        async with aiohttp.ClientSession(headers=self._headers) as session:
            await asyncio.gather(*(self._client(session, number) for number in range(CLIENTS)))

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        asked = 0
        while not self.enough.is_set():
            asked += 1
            key = f"client-{number}-{asked}"
            self.accepted[key] = await self._answer(session, key)
            if asked % 3 == 0:
                assert await self._answer(session, key) == self.accepted[key]
            await asyncio.sleep(random.Random(key).uniform(0.2, 1.2))

    async def _answer(self, session: aiohttp.ClientSession, key: str) -> str:
        dice = random.Random(key)
        while True:
            url = dice.choice(self._gateways.urls) + f"{API}/videos/generate"
            try:
                body = {"prompt": key, "steps": 1}
                async with session.post(url, json=body, headers={"Idempotency-Key": key}) as answer:
                    told = await answer.json()
                    assert answer.status in (202, 503), told
                    if answer.status == 202:
                        self.repeated += "Idempotent-Replayed" in answer.headers
                        return str(told["data"]["job_id"])
            except (aiohttp.ClientError, OSError):
                pass  # killed: nobody knows what became of the request
            await asyncio.sleep(0.05)


@pytest.mark.timeout(1200)
@pytest.mark.long
async def test_no_accepted_job_is_lost_and_none_is_doubled(settings: Settings, tmp_path: Path) -> None:
    token = LocalAuthenticator.open(settings).issue("ada")
    worker = Worker(settings, (*RENDER, *REST), tmp_path)
    gateways = await asyncio.to_thread(Gateways, environment_of(settings) | MANY_IN_FLIGHT, tmp_path)
    load = Load(gateways, token)
    loading = asyncio.create_task(load.run())
    try:
        for n in range(KILLS):
            await asyncio.sleep(random.Random(n).uniform(0.2, 1.5))
            await asyncio.to_thread(gateways.kill_one)
            await asyncio.to_thread(gateways.wait)
        load.enough.set()
        await loading
        await all_ended(settings)
    finally:
        loading.cancel()
        await asyncio.to_thread(gateways.close)
        await asyncio.to_thread(worker.stop)
    await check(settings, load)
    secrets = [token, *(secret for secret in secrets_of(settings) if len(secret) > 6)]
    logged = gateways.log.read_text() + worker.log.read_text()
    assert [secret for secret in secrets if secret in logged] == []


async def all_ended(settings: Settings) -> None:
    database = Database(settings.database_url)
    unfinished = select(func.count()).select_from(jobs).where(jobs.c.status == Status.PROCESSING)
    async with asyncio.timeout(END_S):
        while True:
            async with database.read() as connection:
                if not (await connection.execute(unfinished)).scalar_one():
                    break
            await asyncio.sleep(0.2)
    await database.close()


async def check(settings: Settings, load: Load) -> None:
    """As many jobs as keys, the very ones that were answered, each completed once."""
    database = Database(settings.database_url)
    async with database.read() as connection:
        found = {row.id: row.status for row in await connection.execute(select(jobs.c.id, jobs.c.status))}
        ended = await connection.execute(select(events.c.job_id).where(events.c.kind.in_(VERDICTS)))
        verdicts = Counter(ended.scalars())
    await database.close()
    answered = set(load.accepted.values())
    assert len(answered) == len(load.accepted) > 20
    assert load.repeated
    assert found == dict.fromkeys(answered, Status.COMPLETED)
    assert verdicts == Counter(answered)
