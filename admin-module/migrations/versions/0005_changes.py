"""The change feed: every creation, change and deletion of a file, written by triggers on the catalog."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import UUID

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

RECORD_CHANGES = (
    """CREATE FUNCTION record_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    DECLARE changed record;
    BEGIN
        IF TG_OP = 'DELETE' THEN changed := OLD; ELSE changed := NEW; END IF;
        INSERT INTO changes (txid, change, file_id, revision)
        VALUES (CAST(CAST(pg_current_xact_id() AS text) AS bigint), TG_ARGV[0], changed.file_id, changed.revision);
        RETURN NULL;
    END $$""",
    """CREATE TRIGGER file_created AFTER INSERT ON files FOR EACH ROW
    WHEN (NEW.state = 'available') EXECUTE FUNCTION record_change('created')""",
    """CREATE TRIGGER file_committed AFTER UPDATE ON files FOR EACH ROW
    WHEN (NEW.state = 'available' AND OLD.state <> 'available') EXECUTE FUNCTION record_change('created')""",
    """CREATE TRIGGER file_updated AFTER UPDATE ON files FOR EACH ROW
    WHEN (NEW.state = 'available' AND OLD.state = 'available' AND NEW.revision > OLD.revision)
    EXECUTE FUNCTION record_change('updated')""",
    """CREATE TRIGGER file_deleted AFTER DELETE ON files FOR EACH ROW
    WHEN (OLD.state = 'available') EXECUTE FUNCTION record_change('deleted')""",
)


def upgrade() -> None:
    op.create_table(
        "changes",
        sa.Column(
            "txid",
            sa.BigInteger,
            primary_key=True,
            autoincrement=False,
            comment="the transaction that changed the file",
        ),
        sa.Column("position", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("change", sa.Text, nullable=False, comment="created, updated, deleted"),
        sa.Column("file_id", UUID, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False, comment="of a deleted file its last one"),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
    )
    op.create_table(
        "changes_purged",
        sa.Column("txid", sa.BigInteger, nullable=False, comment="the last change that was purged"),
        sa.Column("position", sa.BigInteger, nullable=False),
    )
    op.execute("INSERT INTO changes_purged (txid, position) VALUES (0, 0)")
    for statement in RECORD_CHANGES:
        op.execute(statement)
