"""Limits of single users, and what was used of the limits that are counted in the database."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from gateway.database.tables import UtcDateTime

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "limit_grants",
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.Column("name", sa.String(16), nullable=False, comment="of the limit"),
        sa.Column("quota", sa.Integer, nullable=False, comment="per hour, instead of the deployment's"),
        sa.PrimaryKeyConstraint("user_id", "name", name="pk_limit_grants"),
    )
    op.create_table(
        "limit_uses",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.Column("name", sa.String(16), nullable=False, comment="of the limit"),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_limit_uses"),
    )
    op.create_index("ix_limit_uses_user_id_name_at", "limit_uses", ["user_id", "name", "at"])


def downgrade() -> None:
    """Take back."""
    op.drop_table("limit_uses")
    op.drop_table("limit_grants")
