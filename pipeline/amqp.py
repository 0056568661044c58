"""What goes wrong while pika connects, as the errors that it raises everywhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPConnectionError


@contextmanager
def connecting() -> Iterator[None]:
    """To be held while pika opens a connection.

    Where a server accepts and then says nothing in time, or TLS fails, pika raises what is no `AMQPError`.

    Raises:
        AMQPConnectionError: it could not connect.
    """
    try:
        yield
    except (AMQPConnectorException, OSError) as error:
        raise AMQPConnectionError(error) from error
