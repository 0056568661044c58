"""How long what users own is kept."""

from __future__ import annotations

from datetime import timedelta


def shortest_s(asked_s: int | None, granted_days: float | None) -> int | None:
    """Seconds: users may ask for less than the deployment grants, not for more; None is for ever."""
    granted_s = None if granted_days is None else round(timedelta(days=granted_days).total_seconds())
    return min((limit for limit in (asked_s, granted_s) if limit is not None), default=None)
