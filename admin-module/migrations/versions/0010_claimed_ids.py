"""The ids that clients made for their files."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import UUID

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "claimed_ids",
        sa.Column("file_id", UUID, primary_key=True),
        sa.Column("saga_id", UUID, nullable=False, comment="the upload that may put the file, or has put it"),
        sa.Column("used", sa.Boolean, nullable=False, server_default=sa.text("false"), comment="the file existed"),
    )
    op.alter_column(
        "sagas",
        "kind",
        existing_type=sa.Text,
        existing_nullable=False,
        comment="upload, update, delete, mode, move",
        existing_comment="upload, update, delete, mode",
    )
