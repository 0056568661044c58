"""HTTP's conditional and range requests (RFC 9110, sections 13 and 14), as far as they depend on no server."""

from __future__ import annotations

import re
from dataclasses import dataclass

RANGE = re.compile(r"bytes=[ \t]*(\d{0,18})-(\d{0,18})[ \t]*", re.ASCII)
ENTITY_TAG = re.compile(r'(?:W/)?("[^"]*")')


@dataclass(frozen=True)
class Span:
    """`length` ≥ 1 bytes from `start` of an object of `size` bytes."""

    start: int
    length: int
    size: int

    @property
    def content_range(self) -> str:
        """Value of the Content-Range header."""
        return f"bytes {self.start}-{self.start + self.length - 1}/{self.size}"


class UnsatisfiableError(Exception):
    """The range lies outside the object."""


def requested(header: str | None, size: int) -> Span | None:
    """The part of `size` bytes that a Range header asks for; None for all of them.

    Malformed headers, other units and several ranges at once are answered with the whole, as the RFC allows.

    Raises:
        UnsatisfiableError: no byte of the object is asked for.
    """
    match = RANGE.fullmatch(header or "")
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        return _span(max(size - int(match[2]), 0), size - 1, size)
    start, end = int(match[1]), int(match[2] or size - 1)
    if match[2] and end < start:
        return None
    return _span(start, min(end, size - 1), size)


def _span(start: int, end: int, size: int) -> Span:
    if start > end:
        raise UnsatisfiableError
    return Span(start, end - start + 1, size)


def matches(header: str | None, etag: str) -> bool:
    """Whether If-None-Match names `etag` (quoted, strong), by weak comparison."""
    return header is not None and (header.strip() == "*" or etag in ENTITY_TAG.findall(header))


def range_applies(if_range: str | None, etag: str) -> bool:
    """Whether the Range header is to be obeyed: If-Range is absent or names exactly this representation."""
    return if_range is None or if_range.strip() == etag
