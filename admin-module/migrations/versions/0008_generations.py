"""Generations: which database this is, how often the catalog went back in time, and how far each element has followed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("registry", sa.Column("generation", sa.BigInteger, nullable=False, server_default=sa.text("1")))
    started_at = sa.Column(
        "generation_started_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")
    )
    op.add_column("registry", started_at)
    op.add_column("registry", sa.Column("identity", sa.Text, comment="of the database, as last seen; null: not yet"))
    attended_at = sa.Column("attended_at", sa.DateTime(timezone=True), comment="when an admin last looked after sagas")
    op.add_column("registry", attended_at)
    # 0: every element reconciles once after the upgrade; one without files has nothing to reconcile.
    op.add_column(
        "storage_elements", sa.Column("generation", sa.BigInteger, nullable=False, server_default=sa.text("0"))
    )
    told = sa.Column(
        "told",
        ARRAY(sa.BigInteger),
        nullable=False,
        server_default=sa.text("'{}'"),
        comment="versions answered to it, from the one it last acknowledged on",
    )
    op.add_column("storage_elements", told)
    reported_to = sa.Column("reported_to", sa.Text, comment="the PostgreSQL process that took its last report")
    op.add_column("storage_elements", reported_to)
