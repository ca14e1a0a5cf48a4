"""Query writes into the catalog by two functions, so that its login needs no grant on `files` and `outbox`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import UUID

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

REFILL = (
    """CREATE FUNCTION refill_files(entries jsonb) RETURNS SETOF uuid LANGUAGE sql SECURITY DEFINER
    SET search_path FROM CURRENT AS $$
    WITH given AS (
        SELECT * FROM jsonb_to_recordset(entries) AS entry(
            file_id uuid, revision integer, storage_element_id text, attributes text, filename text, content_type text,
            size_bytes bigint, owner text, tags jsonb, metadata jsonb, created_at timestamptz, updated_at timestamptz,
            expires_at timestamptz)
    ), written AS (
        INSERT INTO files AS kept (file_id, revision, state, storage_element_id, attributes, filename, content_type,
                                   size_bytes, owner, tags, metadata, created_at, updated_at, expires_at, checked_at)
        SELECT file_id, revision, 'available', storage_element_id, attributes, filename, content_type, size_bytes, owner,
               ARRAY(SELECT jsonb_array_elements_text(tags)), metadata, created_at, updated_at, expires_at, now()
        FROM given ORDER BY file_id
        ON CONFLICT (file_id) DO UPDATE SET
            revision = excluded.revision, attributes = excluded.attributes, filename = excluded.filename,
            content_type = excluded.content_type, size_bytes = excluded.size_bytes, tags = excluded.tags,
            metadata = excluded.metadata, updated_at = excluded.updated_at, expires_at = excluded.expires_at,
            checked_at = now()
        WHERE kept.state = 'available'
          AND (kept.storage_element_id, kept.owner, kept.created_at)
              = (excluded.storage_element_id, excluded.owner, excluded.created_at)
          AND kept.revision <= excluded.revision
        RETURNING kept.file_id, kept.revision, kept.storage_element_id, xmax = 0 AS added
    ), events AS (
        INSERT INTO outbox (channel, message)
        SELECT 'files:changed', CAST(jsonb_build_object('file_id', file_id, 'revision', revision, 'change', 'put',
                                                        'storage_element_id', storage_element_id) AS text)
        FROM written
    ), purged AS (
        DELETE FROM refilled WHERE at < now() - interval '10 minutes' AND file_id NOT IN (SELECT file_id FROM given)
    ), noted AS (
        INSERT INTO refilled (file_id, at) SELECT file_id, now() FROM written WHERE added
        ON CONFLICT (file_id) DO UPDATE SET at = now()
    )
    SELECT file_id FROM written WHERE added $$""",
    """CREATE FUNCTION take_back_refilled(gone jsonb) RETURNS bigint LANGUAGE sql SECURITY DEFINER
    SET search_path FROM CURRENT AS $$
    WITH given AS (
        SELECT * FROM jsonb_to_recordset(gone) AS entry(file_id uuid, revision integer, storage_element_id text)
    ), own AS (
        DELETE FROM refilled USING given WHERE refilled.file_id = given.file_id
        RETURNING refilled.file_id, refilled.at
    ), removed AS (
        DELETE FROM files USING given, own
        WHERE files.file_id = given.file_id AND files.file_id = own.file_id AND own.at > now() - interval '10 minutes'
          AND (files.revision, files.storage_element_id) = (given.revision, given.storage_element_id)
        RETURNING files.file_id, files.revision, files.storage_element_id
    ), events AS (
        INSERT INTO outbox (channel, message)
        SELECT 'files:changed', CAST(jsonb_build_object('file_id', file_id, 'revision', revision, 'change', 'delete',
                                                        'storage_element_id', storage_element_id) AS text)
        FROM removed
    )
    SELECT count(*) FROM removed $$""",
    "REVOKE ALL ON FUNCTION refill_files(jsonb), take_back_refilled(jsonb) FROM PUBLIC",
)


def upgrade() -> None:
    op.create_table(
        "refilled",
        sa.Column("file_id", UUID, primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    for statement in REFILL:
        op.get_bind().exec_driver_sql(statement)
