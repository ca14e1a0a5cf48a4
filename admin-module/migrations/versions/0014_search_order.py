"""The index of words holds the columns that lists are sorted by, keys of metadata, and gaps between texts.

Rows from before stay searchable and are replaced by admin while the system runs: size_bytes is -1 in them. Only the
job that writes the index waits while its new indexes are built, some seconds per million files. A new column has no
default, so that an admin of the version before cannot add rows without it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

BEFORE = {"updated_at": sa.DateTime(timezone=True), "filename": sa.Text, "size_bytes": sa.BigInteger}
DEFAULTS = {"updated_at": "'epoch'", "filename": "''", "size_bytes": "-1"}
COMMENTS = {
    "created_at": "of the file, as the columns below: for sorting",
    "size_bytes": "-1: indexed by an earlier version, will be replaced",
}
INDEXES = {"created": "created_at", "updated": "updated_at", "filename": "filename", "size": "size_bytes"}


def upgrade() -> None:
    for name, type_ in BEFORE.items():
        # A constant default is not written into the rows, so this takes no time.
        op.add_column("file_search", sa.Column(name, type_, nullable=False, server_default=sa.text(DEFAULTS[name])))
        op.alter_column("file_search", name, server_default=None)
    for name, comment in COMMENTS.items():
        op.alter_column("file_search", name, comment=comment)
    for name, column in INDEXES.items():
        op.create_index(f"file_search_by_{name}", "file_search", [column, "file_id"])
    op.execute("UPDATE search_progress SET walked_to = '00000000-0000-0000-0000-000000000000'")
