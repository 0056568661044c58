"""A cloud's metadata service, as a machine of it sees it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.local_http import Handler, serving


@contextmanager
def metadata_service() -> Iterator[tuple[str, list[tuple[int, bytes]]]]:
    """Its URL, and the list whose only entry, status and body, it answers with."""
    says: list[tuple[int, bytes]] = [(404, b"")]

    class Service(Handler):
        def handle_any(self) -> None:
            self.answer(*says[0])

    with serving(Service) as address:
        yield f"http://{address}/preempted", says
