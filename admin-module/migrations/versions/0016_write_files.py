"""Rows of `files` are written by functions without a CTE that writes and without volatile functions in their statements.

Query's functions keep their names, so they are replaced; the commit of uploads gets its time as a variable.
"""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

WRITE_FILES = """CREATE FUNCTION write_files(entries jsonb, durable boolean, channel text, messages jsonb) RETURNS void
    LANGUAGE plpgsql AS $$
    #variable_conflict use_column
    DECLARE
        at timestamptz := now();
    BEGIN
        IF NOT durable THEN
            SET LOCAL synchronous_commit = off;
        END IF;
        IF messages IS NOT NULL THEN
            INSERT INTO outbox (channel, message)
            SELECT write_files.channel, message FROM jsonb_array_elements_text(messages) AS message;
        END IF;
        INSERT INTO files AS kept (file_id, revision, state, saga_id, storage_element_id, attributes, filename,
                                   content_type, size_bytes, owner, tags, metadata, created_at, updated_at, expires_at,
                                   checked_at)
        SELECT file_id, revision, state, saga_id, storage_element_id, attributes, filename, content_type, size_bytes,
               owner, ARRAY(SELECT jsonb_array_elements_text(tags)), metadata, created_at, updated_at, expires_at, at
        FROM jsonb_to_recordset(entries) AS entry (
            file_id uuid, revision integer, state text, saga_id uuid, storage_element_id text, attributes text,
            filename text, content_type text, size_bytes bigint, owner text, tags jsonb, metadata jsonb,
            created_at timestamptz, updated_at timestamptz, expires_at timestamptz)
        ORDER BY file_id
        ON CONFLICT (file_id) DO UPDATE SET
            revision = excluded.revision,
            state = CASE WHEN kept.state = 'available' THEN kept.state ELSE excluded.state END,
            saga_id = CASE WHEN kept.state = 'available' OR excluded.state = 'available' THEN NULL
                           ELSE excluded.saga_id END,
            storage_element_id = excluded.storage_element_id, attributes = excluded.attributes,
            filename = excluded.filename, content_type = excluded.content_type, size_bytes = excluded.size_bytes,
            owner = excluded.owner, tags = excluded.tags, metadata = excluded.metadata,
            created_at = excluded.created_at, updated_at = excluded.updated_at, expires_at = excluded.expires_at,
            checked_at = excluded.checked_at
        WHERE (kept.revision <= excluded.revision AND (kept.state = 'pending' OR excluded.state = 'available'))
           OR (kept.revision < excluded.revision AND kept.storage_element_id = excluded.storage_element_id);
    END $$"""
REFILL = (
    """CREATE FUNCTION refill_files(entries jsonb) RETURNS SETOF uuid LANGUAGE plpgsql SECURITY DEFINER
    SET search_path FROM CURRENT AS $$
    #variable_conflict use_column
    DECLARE
        moment timestamptz := now();
        written record;
    BEGIN
        DELETE FROM refilled WHERE at < moment - interval '10 minutes';
        FOR written IN
            INSERT INTO files AS kept (file_id, revision, state, storage_element_id, attributes, filename, content_type,
                                       size_bytes, owner, tags, metadata, created_at, updated_at, expires_at, checked_at)
            SELECT file_id, revision, 'available', storage_element_id, attributes, filename, content_type, size_bytes,
                   owner, ARRAY(SELECT jsonb_array_elements_text(tags)), metadata, created_at, updated_at, expires_at,
                   moment
            FROM jsonb_to_recordset(entries) AS entry (
                file_id uuid, revision integer, storage_element_id text, attributes text, filename text,
                content_type text, size_bytes bigint, owner text, tags jsonb, metadata jsonb, created_at timestamptz,
                updated_at timestamptz, expires_at timestamptz)
            ORDER BY file_id
            ON CONFLICT (file_id) DO UPDATE SET
                revision = excluded.revision, attributes = excluded.attributes, filename = excluded.filename,
                content_type = excluded.content_type, size_bytes = excluded.size_bytes, tags = excluded.tags,
                metadata = excluded.metadata, updated_at = excluded.updated_at, expires_at = excluded.expires_at,
                checked_at = excluded.checked_at
            WHERE kept.state = 'available'
              AND (kept.storage_element_id, kept.owner, kept.created_at)
                  = (excluded.storage_element_id, excluded.owner, excluded.created_at)
              AND kept.revision <= excluded.revision
            RETURNING kept.file_id, kept.revision, kept.storage_element_id, xmax = 0 AS added
        LOOP
            INSERT INTO outbox (channel, message)
            VALUES ('files:changed', CAST(jsonb_build_object(
                'file_id', written.file_id, 'revision', written.revision, 'change', 'put',
                'storage_element_id', written.storage_element_id) AS text));
            IF written.added THEN
                INSERT INTO refilled (file_id, at) VALUES (written.file_id, moment)
                ON CONFLICT (file_id) DO UPDATE SET at = excluded.at;
                RETURN NEXT written.file_id;
            END IF;
        END LOOP;
    END $$""",
    """CREATE FUNCTION take_back_refilled(gone jsonb) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
    SET search_path FROM CURRENT AS $$
    DECLARE
        one record;
        removed bigint := 0;
    BEGIN
        FOR one IN
            DELETE FROM refilled USING jsonb_to_recordset(gone) AS given (
                file_id uuid, revision integer, storage_element_id text)
            WHERE refilled.file_id = given.file_id
            RETURNING refilled.file_id, refilled.at, given.revision, given.storage_element_id
        LOOP
            CONTINUE WHEN one.at <= now() - interval '10 minutes';
            DELETE FROM files WHERE files.file_id = one.file_id AND files.revision = one.revision
                AND files.storage_element_id = one.storage_element_id;
            CONTINUE WHEN NOT found;
            INSERT INTO outbox (channel, message)
            VALUES ('files:changed', CAST(jsonb_build_object(
                'file_id', one.file_id, 'revision', one.revision, 'change', 'delete',
                'storage_element_id', one.storage_element_id) AS text));
            removed := removed + 1;
        END LOOP;
        RETURN removed;
    END $$""",
)
COMMIT = "commit_uploads(jsonb, text[], uuid)"
WITH_TIME = {
    "DECLARE\n": "DECLARE\n        moment timestamptz := now();\n",
    "expires_at, now()\n": "expires_at, moment\n",
    "checked_at = now()": "checked_at = excluded.checked_at",
}


def upgrade() -> None:
    connection = op.get_bind()
    connection.exec_driver_sql(WRITE_FILES)
    for function in REFILL:
        connection.exec_driver_sql(function.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1))
    commit = connection.exec_driver_sql(f"SELECT pg_get_functiondef(CAST('{COMMIT}' AS regprocedure))").scalar_one()
    for before, after in WITH_TIME.items():
        commit = commit.replace(before, after, 1)
    connection.exec_driver_sql(commit)
