"""Query parameters and pages, without a server."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field
from yarl import URL

from gateway.errors import ApiError
from gateway.pagination import Page, Paged, paginated
from gateway.parameters import LARGEST, WHOLE, Flag, Moment, OneOf


class Asked(Paged):
    file_type: Annotated[str, OneOf(("document", "image", "video", "audio"))] | None = None
    created_after: Moment | None = None
    inline: Flag = False
    offset: Annotated[int, Field(ge=0, le=LARGEST), WHOLE] = 0


def query(text: str) -> Asked:
    return Asked.read(URL(f"/?{text}").query)


def refused(text: str) -> dict[str, list[str]]:
    with pytest.raises(ApiError) as caught:
        query(text)
    assert (caught.value.status, caught.value.message) == (400, "Request validation failed")
    assert isinstance(caught.value.details, dict)
    return caught.value.details


def test_the_documented_errors_are_told_together() -> None:
    assert refused("page=0&file_type=nonsense") == {
        "file_type": ["Invalid file type. Must be one of: document, image, video, audio"],
        "page": ["Page must be greater than 0"],
    }


@pytest.mark.parametrize("value", ["0", "101", "-1"])
def test_a_page_has_at_most_100_items(value: str) -> None:
    assert refused(f"items_per_page={value}") == {"items_per_page": ["Items per page must be between 1 and 100"]}


@pytest.mark.parametrize("value", ["x", "1.5", "1e3", "٣", "9" * 16, "0x10", "1 "])
def test_what_is_no_number(value: str) -> None:
    assert refused(f"page={quote(value)}") == {"page": ["Page must be a whole number"]}


@pytest.mark.parametrize("value", ["yesterday", "2024-13-01", "0001-01-01T00:00:00+23:59"])
def test_what_is_no_time(value: str) -> None:
    assert list(refused(f"created_after={quote(value)}")) == ["created_after"]


@pytest.mark.parametrize("value", ["2024-01-15T10:30:00Z", "2024-01-15T12:30:00+02:00", "2024-01-15 10:30:00%2B00:00"])
def test_times_are_understood_in_every_zone(value: str) -> None:
    assert query(f"created_after={value}").created_after == datetime(2024, 1, 15, 10, 30, tzinfo=UTC)


def test_what_is_left_out_has_its_default_and_what_is_empty_is_wrong() -> None:
    assert refused("page=&file_type=&created_after=&inline=").keys() == {"page", "file_type", "created_after", "inline"}
    asked = query("unknown=1")
    assert asked.wanted == Page(1, 20)
    assert (asked.file_type, asked.created_after, asked.inline, asked.offset) == (None, None, False, 0)


def test_of_several_the_first_counts() -> None:
    assert query("page=2&page=3&inline=1").wanted.number == 2


def test_what_is_no_flag_and_what_is_too_small() -> None:
    assert refused("inline=maybe&offset=-1") == {
        "inline": ["Invalid inline. Must be one of: true, 1, false, 0"],
        "offset": ["Offset must be 0 or greater"],
    }


def test_the_documented_example() -> None:
    assert paginated([1, 2], Page(1, 20), 150) == {
        "items": [1, 2],
        "pagination": {
            "page": 1,
            "items_per_page": 20,
            "total_items": 150,
            "total_pages": 8,
            "has_next": True,
            "has_previous": False,
            "next_page": 2,
            "previous_page": None,
        },
    }


@given(total=st.integers(0, 500), size=st.integers(1, 100))
def test_following_the_pages_shows_everything_once(total: int, size: int) -> None:
    everything, seen, number = list(range(total)), [], 1
    while number is not None:
        page = Page(number, size)
        data = paginated(everything[page.offset : page.offset + page.size], page, total)
        seen += data["items"]
        number = data["pagination"]["next_page"]
    assert seen == everything


def test_a_page_after_the_last_is_empty_and_leads_back() -> None:
    where = paginated([], Page(9, 10), 25)["pagination"]
    assert (where["has_next"], where["previous_page"]) == (False, 3)
    assert paginated([], Page(1, 10), 0)["pagination"]["has_previous"] is False
