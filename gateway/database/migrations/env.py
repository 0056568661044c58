"""Runs Alembic on the connection, and in the transaction, that `gateway.database.migrate` opened."""

from __future__ import annotations

from alembic import context

from gateway.database.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # true of both databases, as the transaction is begun by us
)
context.run_migrations()
