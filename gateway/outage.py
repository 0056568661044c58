"""Keeps requests from waiting, one by one, for a server that is away."""

from __future__ import annotations

import time

import structlog

log = structlog.get_logger(__name__)

PAUSE_S = 2.0
"""A server is not asked for so long after it failed."""

SILENCE_S = 2.0
"""A server that is silent for so long is away. Long enough that a gateway which was busy itself, and so read an answer
late, does not take that for its server's silence.
"""


class Outage:
    """Of one server; `consequence` is what the log says it means."""

    def __init__(self, consequence: str) -> None:
        self._consequence = consequence
        self._until = float("-inf")

    @property
    def over(self) -> bool:
        """Whether the server may be asked."""
        return time.monotonic() >= self._until

    def begin(self, error: Exception) -> None:
        """The server failed."""
        log.warning(self._consequence, error=repr(error))
        self._until = time.monotonic() + PAUSE_S
