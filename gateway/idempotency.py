"""`Idempotency-Key`: a request that is sent again gets the first answer instead of being carried out again.

The key is kept in the transaction that does what was asked, so there is never a key without the deed, nor a deed
without its key; of simultaneous requests one does it, and the others get its answer.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.contract import Header
from gateway.database import idempotency
from gateway.database.engine import Database
from gateway.envelope import Success, success
from gateway.errors import invalid
from pipeline.vocabulary import now

FORM = r"^[\x21-\x7e]{1,255}$"
KEY = Header(
    "Idempotency-Key",
    "For 24 hours a request that is sent again with the same key is answered as the first was.",
    {"type": "string", "pattern": FORM},
)
REPLAYED = "Idempotent-Replayed"
KEPT = timedelta(hours=24)
"""After this a key may be used for something else."""


class KeyTaken(Exception):
    """Another request with the same key was faster; its answer is there now."""


@dataclass(frozen=True)
class Answer:
    """What is answered, in a form that can be kept."""

    status: int
    data: Mapping[str, Any]
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def replayed(self) -> bool:
        """Whether it was given before."""
        return REPLAYED in self.headers

    def response(self) -> Success[Any]:
        """As an HTTP answer."""
        return success(self.data, self.message, status=self.status, headers=self.headers)


BOUND = Answer(200, {}, "")
"""Kept under the key of what has an answer for each of its parts."""


@dataclass(frozen=True)
class Attempt:
    """A request with a key.

    Attributes:
        fingerprint: of what is asked, so that a key is not used for two things.
    """

    user_id: str
    key: str
    fingerprint: str

    def part(self, number: int) -> Attempt:
        """One of several things that are asked for with one key, each answered by itself."""
        return replace(self, key=hashlib.sha256(f"{number} {self.key}".encode()).hexdigest())


def read(request: web.Request, user_id: str, content: object) -> Attempt | None:
    """The attempt a request is; None without the header.

    Args:
        content: what is asked (JSON values), such as the body, or the digest and fields of an upload.

    Raises:
        ApiError: 400, the key is malformed.
    """
    key = request.headers.get(KEY.name)
    if key is None:
        return None
    if not re.match(FORM, key):
        raise invalid({KEY.name: ["Must be 1 to 255 visible ASCII characters"]})
    text = json.dumps([request.method, request.path, content], sort_keys=True)
    return Attempt(user_id, key, hashlib.sha256(text.encode()).hexdigest())


async def earlier(database: Database, attempt: Attempt | None) -> Answer | None:
    """The answer to the first request with this key, if there was one.

    Raises:
        ApiError: 400, it was a request for something else.
    """
    if attempt is None:
        return None
    async with database.read() as connection:
        kept = await idempotency.find(connection, attempt.user_id, attempt.key, now() - KEPT)
    if kept is None:
        return None
    if kept.fingerprint != attempt.fingerprint:
        raise invalid({KEY.name: ["Was used for another request in the last 24 hours"]})
    answer = kept.answer
    headers = answer["headers"] | {REPLAYED: "true"}
    return Answer(answer["status"], answer["data"], answer["message"], headers)


async def used(database: Database, attempt: Attempt | None) -> bool:
    """Whether the attempt's key was used, for whatever: carrying it out again takes no more of any limit."""
    if attempt is None:
        return False
    async with database.read() as connection:
        return await idempotency.find(connection, attempt.user_id, attempt.key, now() - KEPT) is not None


async def bind(database: Database, attempt: Attempt | None) -> None:
    """Let the key stand for this attempt before that is carried out in parts, each with its own answer.

    Raises:
        ApiError: 400, it stands for another request.
    """
    if attempt is not None and await earlier(database, attempt) is None:
        with suppress(KeyTaken):
            async with database.write() as connection:
                await keep(connection, attempt, BOUND)
            return
        await earlier(database, attempt)


async def keep(connection: AsyncConnection, attempt: Attempt | None, answer: Answer) -> None:
    """Keep an answer in the transaction that makes it true.

    Raises:
        KeyTaken: nothing was kept; `earlier` is to be asked again once the transaction has ended.
    """
    if attempt is None:
        return
    content = {
        "status": answer.status,
        "data": dict(answer.data),
        "message": answer.message,
        "headers": dict(answer.headers),
    }
    before = now() - KEPT
    if not await idempotency.add(connection, attempt.user_id, attempt.key, attempt.fingerprint, content, before):
        raise KeyTaken
