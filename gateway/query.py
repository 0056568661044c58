"""Reads query parameters; collects everything that is wrong with them, so that one answer names it all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import TypeVar

from aiohttp import web

from gateway.errors import invalid

INTEGER = re.compile(r"-?[0-9]{1,15}")
"""Fits what databases compare, with room for a multiplication by a page's size."""

T = TypeVar("T")


class Query:
    """The parameters of one request; used as a context manager that refuses the request at its end.

        with Query(request) as query:
            page = pagination.read(query)
            status = query.choice("status", STATUSES)

    A parameter that is left out or empty has its default.

    Raises:
        ApiError: 400 with what is wrong, by parameter; at the end of the block.
    """

    def __init__(self, request: web.Request) -> None:
        self._given = request.query
        self._wrong: dict[str, list[str]] = {}

    def __enter__(self) -> Query:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._wrong:
            raise invalid(self._wrong)

    def text(self, name: str) -> str | None:
        """The parameter as it is, None where it is left out."""
        return self._given.get(name) or None

    def choice(self, name: str, accepted: Sequence[str], default: str | None = None) -> str | None:
        """One of `accepted`."""
        value = self.text(name)
        if value is None or value in accepted:
            return value or default
        return self.wrong(name, f"Invalid {_words(name)}. Must be one of: {', '.join(accepted)}", default)

    def integer(self, name: str, default: int, minimum: int, maximum: int | None = None) -> int:
        """A whole number between `minimum` and `maximum`."""
        value = self.text(name)
        if value is None:
            return default
        if not INTEGER.fullmatch(value):
            return self.wrong(name, f"{_words(name).capitalize()} must be a whole number", default)
        number = int(value)
        if minimum <= number and (maximum is None or number <= maximum):
            return number
        return self.wrong(name, f"{_words(name).capitalize()} must be {_range(minimum, maximum)}", default)

    def time(self, name: str) -> datetime | None:
        """A moment in ISO 8601; without a time zone it is in UTC, without a time it is the day's beginning."""
        value = self.text(name)
        if value is None:
            return None
        try:
            at = datetime.fromisoformat(value.replace(" ", "+"))  # a "+" in a query that was not encoded
            return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            text = f"{_words(name).capitalize()} must be a date or time in ISO 8601, such as 2024-01-15T10:30:00Z"
            return self.wrong(name, text, None)

    def wrong(self, name: str, text: str, instead: T) -> T:
        """Note what is wrong with a parameter; returns `instead`."""
        self._wrong.setdefault(name, []).append(text)
        return instead


def _words(name: str) -> str:
    return name.replace("_", " ")


def _range(minimum: int, maximum: int | None) -> str:
    if maximum is None and minimum == 0:
        return "0 or greater"
    return f"greater than {minimum - 1}" if maximum is None else f"between {minimum} and {maximum}"
