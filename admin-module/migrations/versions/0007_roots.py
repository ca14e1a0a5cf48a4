"""The root that each element was last accepted with, and the last report that was refused."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "storage_elements",
        sa.Column("root_id", sa.Text, comment="accepted last; empty: may make one; null: from before root ids"),
    )
    op.add_column(
        "storage_elements",
        sa.Column("incarnation", sa.BigInteger, nullable=False, server_default="0", comment="the highest accepted"),
    )
    op.add_column(
        "storage_elements",
        sa.Column("instance", sa.Text, nullable=False, server_default="", comment="the process that has it"),
    )
    op.add_column("storage_elements", sa.Column("away_reason", sa.Text, comment="why status is away"))
    op.execute("UPDATE storage_elements SET root_id = '' WHERE backend = 'unknown'")
    op.create_table(
        "refused_roots",
        sa.Column("element_id", sa.Text, primary_key=True),
        sa.Column("code", sa.Text, nullable=False, comment="root_refused, fenced"),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("root_id", sa.Text, nullable=False, comment="empty: the element has no root"),
        sa.Column("incarnation", sa.BigInteger, nullable=False),
        sa.Column("instance", sa.Text, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("files", sa.BigInteger, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
