"""Full-text search and parts of names: a table beside `files` that admin fills from the change feed.

Rows from before are indexed by admin while the system runs; only the index on `updated_at` is built here, about a
second per million files.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, TSVECTOR, UUID

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

PENDING_LIST = {"gin_pending_list_limit": "1024"}
SEARCH = (
    "CREATE TEXT SEARCH DICTIONARY artstore_english (TEMPLATE = pg_catalog.snowball, LANGUAGE = english)",
    "CREATE TEXT SEARCH DICTIONARY artstore_russian (TEMPLATE = pg_catalog.snowball, LANGUAGE = russian)",
    "CREATE TEXT SEARCH CONFIGURATION artstore (COPY = pg_catalog.russian)",
    "ALTER TEXT SEARCH CONFIGURATION artstore ALTER MAPPING REPLACE pg_catalog.english_stem WITH artstore_english",
    "ALTER TEXT SEARCH CONFIGURATION artstore ALTER MAPPING REPLACE pg_catalog.russian_stem WITH artstore_russian",
    """INSERT INTO search_progress (txid, position, walked_to)
    VALUES (0, 0, '00000000-0000-0000-0000-000000000000')""",
)


def upgrade() -> None:
    op.create_index("files_by_updated", "files", ["updated_at", "file_id"])
    op.create_table(
        "file_search",
        sa.Column("file_id", UUID, primary_key=True),
        sa.Column("revision", sa.Integer, nullable=False, comment="the revision of the file that is indexed"),
        sa.Column("words", TSVECTOR, nullable=False, comment="stems with positions, and whole words"),
        sa.Column("name_grams", ARRAY(sa.Integer), nullable=False, comment="hashed trigrams of the name"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="of the file: the usual order of a list",
        ),
    )
    for column in ("words", "name_grams"):
        op.create_index(
            f"file_search_by_{column}",
            "file_search",
            [column],
            postgresql_using="gin",
            postgresql_with=PENDING_LIST,
        )
    op.create_table(
        "search_progress",
        sa.Column("txid", sa.BigInteger, nullable=False, comment="the last change that is indexed"),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("walked_to", UUID, comment="all rows are being indexed, up to here; null: done"),
    )
    for statement in SEARCH:
        op.get_bind().exec_driver_sql(statement)
