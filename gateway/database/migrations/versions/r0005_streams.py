"""The tokens with which players open the playlists of a job."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from gateway.database.tables import UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("jobs", sa.Column("stream_nonce", sa.String(32), comment="names the token that opens its playlists"))
    op.add_column("jobs", sa.Column("stream_expires_at", UtcDateTime, comment="until when that token is good"))


def downgrade() -> None:
    """Take back."""
    op.drop_column("jobs", "stream_expires_at")
    op.drop_column("jobs", "stream_nonce")
