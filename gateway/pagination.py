"""The documented pages of lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.query import Query

ITEMS_PER_PAGE = 20
MAX_ITEMS_PER_PAGE = 100


@dataclass(frozen=True)
class Page:
    """The `number`-th page (from 1) of a list, with up to `size` items."""

    number: int = 1
    size: int = ITEMS_PER_PAGE

    @property
    def offset(self) -> int:
        """Items before this page."""
        return (self.number - 1) * self.size


def read(query: Query) -> Page:
    """The page that `page` and `items_per_page` ask for."""
    return Page(
        number=query.integer("page", 1, minimum=1),
        size=query.integer("items_per_page", ITEMS_PER_PAGE, minimum=1, maximum=MAX_ITEMS_PER_PAGE),
    )


def paginated(items: Sequence[Any], page: Page, total: int) -> dict[str, Any]:
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
