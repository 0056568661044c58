"""Asks the machine's cloud whether it is about to take the machine away."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Callable

import structlog

EVERY_S = 5.0
"""A spot machine is given 30 s (Google, Azure) to 2 min (Amazon)."""
TIMEOUT_S = 2.0
NOT_YET = {b"", b"FALSE"}
"""Google's answer while all is well; Amazon answers 404."""

log = structlog.get_logger(__name__)


def watch(url: str, leave: Callable[[], None]) -> None:
    """Call `leave` once, from a thread of its own, when the metadata service at `url` gives notice."""
    threading.Thread(target=_watch, args=(url, leave), name="notice", daemon=True).start()


def _watch(url: str, leave: Callable[[], None]) -> None:
    while not noticed(url):
        threading.Event().wait(EVERY_S)
    log.warning("the machine is about to be taken away")
    leave()


def noticed(url: str) -> bool:
    """Whether there is a notice; a service that cannot be reached has given none."""
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})  # noqa: S310 - the operator's URL
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            return answer.status == 200 and answer.read(1024).strip() not in NOT_YET
    except (urllib.error.URLError, OSError):
        return False
