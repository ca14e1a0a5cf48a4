"""The id of a deleted file is never used again, whether a client or the service made it: a trigger adds it to `claimed_ids`."""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

USE_IDS = (
    # For an id that no client made, the saga is that of no upload.
    """CREATE FUNCTION use_id() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    BEGIN
        INSERT INTO claimed_ids (file_id, saga_id, used) VALUES (OLD.file_id, OLD.file_id, true)
        ON CONFLICT (file_id) DO UPDATE SET used = true;
        RETURN NULL;
    END $$""",
    """CREATE TRIGGER file_id_used AFTER DELETE ON files FOR EACH ROW
    WHEN (OLD.state = 'available') EXECUTE FUNCTION use_id()""",
)


def upgrade() -> None:
    for statement in USE_IDS:
        op.execute(statement)
