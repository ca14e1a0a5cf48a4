"""Revocations, writers of the audit log beside admin, and signed checkpoints over all chains."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("accounts", sa.Column("name", sa.Text, nullable=False, server_default=sa.text("''")))
    op.create_table(
        "revocations",
        sa.Column("kind", sa.Text, primary_key=True, comment="account, key"),
        sa.Column("name", sa.Text, primary_key=True, comment="the account's id (sub) or the key's kid"),
        sa.Column(
            "void_through",
            sa.BigInteger,
            nullable=False,
            comment="unix second: tokens of the account issued until then",
        ),
        sa.Column("forget_at", sa.DateTime(timezone=True), nullable=False, comment="when nothing it voids can be left"),
    )
    # Writers beside admin keep their private key themselves and leave only the public one here.
    op.alter_column("audit_keys", "private_sealed", nullable=True)
    op.create_table(
        "audit_checkpoints",
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("body", sa.Text, nullable=False, comment="canonical JSON with its signature"),
    )
    op.execute(
        """
        CREATE TRIGGER audit_checkpoints_insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_checkpoints
        FOR EACH STATEMENT EXECUTE FUNCTION audit_events_refuse()
        """
    )
