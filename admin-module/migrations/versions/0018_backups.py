"""The complete backups that `artstore backup` has recorded: their age is a metric."""

from __future__ import annotations

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE TABLE backups (began_at timestamptz PRIMARY KEY, ended_at timestamptz NOT NULL)")
