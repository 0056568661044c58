"""The documented pages of lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from pydantic import Field
from typing_extensions import TypedDict

from gateway.parameters import LARGEST, WHOLE, Parameters

ITEMS_PER_PAGE = 20
MAX_ITEMS_PER_PAGE = 100

T = TypeVar("T")


@dataclass(frozen=True)
class Page:
    """The `number`-th page (from 1) of a list, with up to `size` items."""

    number: int = 1
    size: int = ITEMS_PER_PAGE

    @property
    def offset(self) -> int:
        """Items before this page."""
        return (self.number - 1) * self.size


class Paged(Parameters):
    """Query parameters of a list."""

    page: Annotated[int, Field(ge=1, le=LARGEST), WHOLE] = 1
    items_per_page: Annotated[int, Field(ge=1, le=MAX_ITEMS_PER_PAGE), WHOLE] = ITEMS_PER_PAGE

    @property
    def wanted(self) -> Page:
        """The page that is asked for."""
        return Page(self.page, self.items_per_page)


class Pagination(TypedDict):
    """Where a page stands in its list."""

    page: int
    items_per_page: int
    total_items: int
    total_pages: int
    has_next: bool
    has_previous: bool
    next_page: int | None
    previous_page: int | None


class Listing(TypedDict, Generic[T]):
    """A page of a list."""

    items: list[T]
    pagination: Pagination


def paginated(items: Sequence[T], page: Page, total: int) -> Listing[T]:
    """`data` of an answer: the items of one page and where it stands among all `total` items.

    A page after the last one is empty, and the page before it is the last one.
    """
    pages = -(-total // page.size)
    following = page.number + 1 if page.number < pages else None
    preceding = min(page.number - 1, pages) or None
    return {
        "items": list(items),
        "pagination": {
            "page": page.number,
            "items_per_page": page.size,
            "total_items": total,
            "total_pages": pages,
            "has_next": following is not None,
            "has_previous": preceding is not None,
            "next_page": following,
            "previous_page": preceding,
        },
    }
