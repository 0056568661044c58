"""Files of users, how often they were fetched, and blobs that nothing refers to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from gateway.database.tables import UtcDateTime

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "files",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("digest", sa.String(80), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("content_type", sa.String(127), nullable=False, comment="by content"),
        sa.Column("file_type", sa.String(16), nullable=False),
        sa.Column("subdirectory", sa.String(255)),
        sa.Column("description", sa.Text),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("updated_at", UtcDateTime, nullable=False),
        sa.Column("expires_at", UtcDateTime, comment="when it is removed; null: when it is deleted"),
        sa.Column(
            "stored",
            sa.Boolean,
            nullable=False,
            comment="false while its blob is being placed; nobody sees it until then",
        ),
        sa.Column("inspection", sa.String(16), nullable=False, comment="pending, ready or unreadable"),
        sa.Column(
            "inspect_at", UtcDateTime, comment="not before; a gateway that looks into it moves this on as its lease"
        ),
        sa.Column("inspections", sa.Integer, nullable=False, comment="how often that was begun"),
        sa.Column("metadata", sa.JSON, nullable=False, comment="what was found in it"),
        sa.PrimaryKeyConstraint("id", name="pk_files"),
    )
    op.create_index("ix_files_digest", "files", ["digest"])
    op.create_index("ix_files_expires_at", "files", ["expires_at"])
    op.create_index("ix_files_user_id_created_at", "files", ["user_id", "created_at"])
    op.create_index("ix_files_inspection_inspect_at", "files", ["inspection", "inspect_at"])
    op.create_table(
        "file_thumbnails",
        sa.Column("file_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(16), nullable=False, comment="small, medium or large"),
        sa.Column("digest", sa.String(80), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("media_type", sa.String(127), nullable=False),
        sa.PrimaryKeyConstraint("file_id", "name", name="pk_file_thumbnails"),
        sa.ForeignKeyConstraint(["file_id"], ["files.id"], name="fk_file_thumbnails_file_id_files", ondelete="CASCADE"),
    )
    op.create_index("ix_file_thumbnails_digest", "file_thumbnails", ["digest"])
    op.create_table(
        "file_accesses",
        sa.Column("file_id", sa.String(64), nullable=False, comment="an upload's or a video's"),
        sa.Column("day", sa.Date, nullable=False, comment="UTC"),
        sa.Column("kind", sa.String(16), nullable=False, comment="download, stream or thumbnail"),
        sa.Column("signed", sa.Boolean, nullable=False, comment="by a signed URL"),
        sa.Column("user_id", sa.String(255), nullable=False, comment="the owner"),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("last_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("file_id", "day", "kind", "signed", name="pk_file_accesses"),
    )
    op.create_index("ix_file_accesses_user_id", "file_accesses", ["user_id"])
    op.create_table(
        "unreferenced",
        sa.Column("key", sa.String(255), nullable=False, comment="of a blob that nothing refers to"),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("since", UtcDateTime, nullable=False, comment="when a sweep found it so"),
        sa.PrimaryKeyConstraint("key", name="pk_unreferenced"),
    )


def downgrade() -> None:
    """Take back."""
    for table in ("unreferenced", "file_accesses", "file_thumbnails", "files"):
        op.drop_table(table)
