"""What clients accept, by their headers `Accept` and `Accept-Encoding` (RFC 9110, 12.5)."""

from __future__ import annotations

REFUSALS = frozenset(("q=0", "q=0.", "q=0.0", "q=0.00", "q=0.000"))


def accepted(header: str) -> dict[str, bool]:
    """What a header names, in lower case, and whether it accepts it: a weight of zero refuses."""
    named = {}
    for part in header.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        named[name] = REFUSALS.isdisjoint(parameters)
    return named
