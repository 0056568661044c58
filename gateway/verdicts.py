"""Verdicts in the store of which some may be a newer release's."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec

import structlog

from pipeline.errors import RecordUnreadable
from pipeline.vocabulary import Final

log = structlog.get_logger(__name__)

P = ParamSpec("P")


def readable(ask: Callable[P, Final | None], *args: P.args, **named: P.kwargs) -> Final | None:
    """What `ask` answers of one job; None, which is logged, if its verdict is unreadable: the others must go on."""
    try:
        return ask(*args, **named)
    except RecordUnreadable as error:
        log.error("verdict unreadable", error=str(error))
        return None
