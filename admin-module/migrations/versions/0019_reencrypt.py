"""Admin may encrypt its own audit key anew. The grant names the one column; the public key stays as it is."""

from __future__ import annotations

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """CREATE POLICY audit_keys_reencrypt ON audit_keys FOR UPDATE
        USING (chain = 'admin') WITH CHECK (chain = 'admin')"""
    )
