"""The limits, and what is told of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple

from gateway.errors import ApiError, Code

WINDOW = timedelta(hours=1)
"""Of all limits; it slides: what was asked an hour ago counts no more."""
WINDOW_S = int(WINDOW.total_seconds())


class Limit(StrEnum):
    """What is counted; the documented four."""

    GENERAL = "general"
    SYSTEM = "system"
    UPLOADS = "uploads"
    JOBS = "jobs"


NOUNS = {Limit.GENERAL: "requests", Limit.SYSTEM: "requests", Limit.UPLOADS: "uploads", Limit.JOBS: "jobs"}


class Standing(NamedTuple):
    """Where somebody stands with a limit.

    Attributes:
        remaining: what is left at this moment.
        reset_s: until more is.
    """

    limit: Limit
    quota: int
    remaining: int
    reset_s: float

    def after_one_more(self) -> Standing:
        """Where they stand once one more is counted."""
        return self._replace(remaining=self.remaining - 1)


def exceeded(standing: Standing) -> ApiError:
    """429 in the document's words."""
    minutes = max(math.ceil(standing.reset_s / 60), 1)
    details = (
        f"You have exceeded the limit of {standing.quota} {NOUNS[standing.limit]} per hour. "
        f"Try again in {minutes} minute{'' if minutes == 1 else 's'}."
    )
    headers = {"Retry-After": str(max(math.ceil(standing.reset_s), 1))}
    return ApiError(Code.RATE_LIMIT_EXCEEDED, "Rate limit exceeded", details, headers=headers)


def headers(standings: Sequence[Standing]) -> dict[str, str]:
    """The fields of the IETF's draft: what holds, and what is left of it, by the last standing with each limit."""
    told = standings if len(standings) < 2 else list({one.limit: one for one in standings}.values())
    if not told:
        return {}
    return {
        "RateLimit": ", ".join([f'"{one.limit.value}";r={one.remaining};t={math.ceil(one.reset_s)}' for one in told]),
        "RateLimit-Policy": ", ".join([f'"{one.limit.value}";q={one.quota};w={WINDOW_S}' for one in told]),
    }
