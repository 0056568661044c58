"""What users may ask of a job besides its video: priority, retention, reuse; and keys of requests sent again."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from gateway.database.tables import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def columns() -> tuple[sa.Column[Any], ...]:
    """Of `jobs`; made anew each time, as a column belongs to one table."""
    return (
        sa.Column("priority", sa.Integer, nullable=False, server_default="0", comment="-1 low, 0 normal, 1 high"),
        sa.Column("work", sa.BigInteger, nullable=False, server_default="0", comment="frames times steps"),
        sa.Column("seed", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column(
            "signature", sa.String(64), nullable=False, server_default="", comment="equal where only the seed differs"
        ),
        sa.Column("reused_from", sa.String(64), comment="the job whose files it shares"),
        sa.Column(
            "joined", sa.Integer, nullable=False, server_default="0", comment="identical requests it answers as well"
        ),
        sa.Column("retention_s", sa.Integer, comment="how long it is kept after its end; null: for ever"),
        sa.Column("expires_at", UtcDateTime, comment="when it is removed; null before its end"),
    )


def upgrade() -> None:
    """Apply."""
    for column in columns():
        op.add_column("jobs", column)
    op.create_index("ix_jobs_user_id_signature", "jobs", ["user_id", "signature"])
    op.create_index("ix_jobs_expires_at", "jobs", ["expires_at"])
    op.create_table(
        "idempotency_keys",
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False, comment="of what was asked"),
        sa.Column("answer", sa.JSON, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])


def downgrade() -> None:
    """Take back."""
    op.drop_table("idempotency_keys")
    op.drop_index("ix_jobs_expires_at", "jobs")
    op.drop_index("ix_jobs_user_id_signature", "jobs")
    for column in reversed(columns()):
        op.drop_column("jobs", column.name)
