"""The address at which clients reach an element, for signed links."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("storage_elements", sa.Column("public_url", sa.Text))
