"""Alembic's folder; run by `gateway.database.migrate`."""
