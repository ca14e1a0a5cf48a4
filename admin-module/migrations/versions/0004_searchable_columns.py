"""Names, tags and metadata in NFC and content types in one form, so that a search finds what looks the same."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""UPDATE files SET filename = normalize(filename, NFC) WHERE filename IS NOT NFC NORMALIZED""")
    op.execute(
        """UPDATE files SET tags = ARRAY(SELECT normalize(tag, NFC) FROM unnest(tags) WITH ORDINALITY AS t(tag, n) ORDER BY n)
        WHERE array_to_string(tags, '') IS NOT NFC NORMALIZED"""
    )
    op.execute(
        """UPDATE files SET metadata = CAST(normalize(CAST(metadata AS text), NFC) AS jsonb)
        WHERE CAST(metadata AS text) IS NOT NFC NORMALIZED"""
    )
    op.execute(
        """UPDATE files SET content_type = lower(btrim(split_part(content_type, ';', 1)))
            || coalesce('; ' || nullif(btrim(substr(content_type, strpos(content_type, ';') + 1)), ''), '')
        WHERE strpos(content_type, ';') > 0"""
    )
    op.execute(
        """UPDATE files SET content_type = lower(btrim(content_type))
        WHERE strpos(content_type, ';') = 0 AND content_type <> lower(btrim(content_type))"""
    )
    op.alter_column("files", "filename", comment="in NFC, as are tags and metadata", existing_comment=None)
    op.alter_column("files", "content_type", comment="type and subtype in lower case", existing_comment=None)
    op.create_index("files_by_type", "files", [sa.text("split_part(content_type, ';', 1)"), "created_at"])
