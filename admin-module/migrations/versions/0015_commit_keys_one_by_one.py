"""The commit of uploads takes each idempotency key by itself: a connection that planned a join with all keys while the
table was small read the whole table for each commit.
"""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

# The element that the ingester has abandoned may still hold or receive data, which is removed later.
ABANDONED = """array_remove(
    CASE WHEN kept.storage_element_id = excluded.storage_element_id THEN kept.abandoned
         ELSE array_append(array_remove(kept.abandoned, kept.storage_element_id), kept.storage_element_id) END,
    excluded.storage_element_id)"""
COMMIT_UPLOADS = f"""CREATE OR REPLACE FUNCTION commit_uploads(uploads jsonb, may_commit text[], oldest uuid)
    RETURNS TABLE (saga_id uuid, committed boolean) LANGUAGE plpgsql AS $$
    #variable_conflict use_column
    DECLARE
        keyed uuid[];
        held uuid[];
        done uuid[];
        one uuid;
        answer record;
    BEGIN
        -- 1. Lock the idempotency keys. An upload whose key was taken over is not committed.
        keyed := ARRAY(SELECT upload FROM jsonb_to_recordset(uploads) AS given (upload uuid, answer_status integer)
                       WHERE answer_status IS NOT NULL);
        IF keyed <> '{{}}' THEN
            FOR one IN SELECT unnest(keyed) ORDER BY 1 LOOP
                PERFORM FROM idempotency_keys WHERE idempotency_keys.saga_id = one FOR UPDATE;
                IF found THEN
                    held := held || one;
                END IF;
            END LOOP;
            RETURN QUERY SELECT unnest(held), false;
        END IF;
        -- 2. Commit the sagas that may still be committed; their rows stay locked too. A saga that began before
        --    `oldest` may have been undone and purged since, so it is committed only while its row exists.
        FOR one IN
            INSERT INTO sagas AS kept (saga_id, kind, state, file_id, storage_element_id, owner)
            SELECT upload, 'upload', 'committed', file_id, storage_element_id, owner
            FROM jsonb_to_recordset(uploads) AS given (upload uuid, file_id uuid, storage_element_id text, owner text)
            WHERE (upload >= oldest OR EXISTS (SELECT FROM sagas WHERE sagas.saga_id = upload))
                AND (upload <> ALL(keyed) OR upload = ANY(held))
            ORDER BY upload
            ON CONFLICT (saga_id) DO UPDATE SET state = 'committed', updated_at = now(),
                abandoned = {ABANDONED}, storage_element_id = excluded.storage_element_id,
                due_at = CASE WHEN {ABANDONED} = '{{}}' THEN NULL ELSE now() END
            WHERE kept.state = ANY(may_commit) AND kept.file_id = excluded.file_id
            RETURNING kept.saga_id
        LOOP
            done := done || one;
        END LOOP;
        RETURN QUERY SELECT unnest(done), true;
        -- 3. Make their files available.
        INSERT INTO files AS kept (file_id, revision, state, storage_element_id, attributes, filename, content_type,
                                   size_bytes, owner, tags, metadata, created_at, updated_at, expires_at, checked_at)
        SELECT file_id, revision, 'available', storage_element_id, attributes, filename, content_type, size_bytes, owner,
               ARRAY(SELECT jsonb_array_elements_text(tags)), metadata, created_at, updated_at, expires_at, now()
        FROM jsonb_to_recordset(uploads) AS given (
            upload uuid, file_id uuid, revision integer, storage_element_id text, attributes text, filename text,
            content_type text, size_bytes bigint, owner text, tags jsonb, metadata jsonb, created_at timestamptz,
            updated_at timestamptz, expires_at timestamptz)
        WHERE upload = ANY(done) ORDER BY file_id
        ON CONFLICT (file_id) DO UPDATE SET
            revision = excluded.revision, state = 'available', saga_id = NULL,
            storage_element_id = excluded.storage_element_id, attributes = excluded.attributes,
            filename = excluded.filename, content_type = excluded.content_type, size_bytes = excluded.size_bytes,
            owner = excluded.owner, tags = excluded.tags, metadata = excluded.metadata,
            created_at = excluded.created_at, updated_at = excluded.updated_at, expires_at = excluded.expires_at,
            checked_at = now()
        WHERE kept.revision <= excluded.revision;
        -- 4. Store the answers of the keys.
        IF held IS NOT NULL THEN
            FOR answer IN
                SELECT upload, answer_status AS status, answer_headers AS headers, convert_to(attributes, 'UTF8') AS body
                FROM jsonb_to_recordset(uploads) AS given (
                    upload uuid, answer_status integer, answer_headers jsonb, attributes text)
                WHERE upload = ANY(done) AND answer_status IS NOT NULL
            LOOP
                UPDATE idempotency_keys AS kept
                SET status = answer.status, headers = answer.headers, body = answer.body
                WHERE kept.saga_id = answer.upload AND kept.status IS NULL;
            END LOOP;
        END IF;
    END $$"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(COMMIT_UPLOADS)
