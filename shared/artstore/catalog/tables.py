"""The tables several modules touch. Admin's migrations create them; a test holds the two against each other."""

from __future__ import annotations

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    event,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TSVECTOR, UUID

metadata = MetaData()

PENDING = "pending"
AVAILABLE = "available"

files = Table(
    "files",
    metadata,
    Column("file_id", UUID(as_uuid=False), primary_key=True),
    Column("revision", Integer, nullable=False),
    Column("state", String(16), nullable=False, comment="pending while its saga is open, then available"),
    Column("saga_id", UUID(as_uuid=False), comment="the upload saga that put it, while pending"),
    Column("storage_element_id", Text, nullable=False),
    Column("attributes", Text, nullable=False, comment="attr.json to the byte: what is answered"),
    Column("filename", Text, nullable=False, comment="in NFC, as are tags and metadata"),
    Column("content_type", Text, nullable=False, comment="type and subtype in lower case"),
    Column("size_bytes", BigInteger, nullable=False),
    Column("owner", Text, nullable=False),
    Column("tags", ARRAY(Text), nullable=False),
    Column("metadata", JSONB, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True)),
    Column("checked_at", DateTime(timezone=True), nullable=False, comment="when last seen on disk"),
    Index("files_by_created", "created_at", "file_id"),
    Index("files_by_updated", "updated_at", "file_id"),
    Index("files_by_filename", "filename", "file_id"),
    Index("files_by_size", "size_bytes", "file_id"),
    Index("files_by_owner", "owner", "created_at"),
    Index("files_by_type", text("split_part(content_type, ';', 1)"), "created_at"),
    Index("files_by_element", "storage_element_id", "file_id"),
    Index("files_by_tags", "tags", postgresql_using="gin"),
    Index("files_by_metadata", "metadata", postgresql_using="gin", postgresql_ops={"metadata": "jsonb_path_ops"}),
    Index("files_expiring", "storage_element_id", "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
    Index("files_pending", "checked_at", postgresql_where=text("state = 'pending'")),
)

sagas = Table(
    "sagas",
    metadata,
    Column("saga_id", UUID, primary_key=True),
    Column("kind", Text, nullable=False, comment="upload, update, delete, mode, move"),
    Column("state", Text, nullable=False),
    Column("file_id", UUID, comment="null: of a whole element"),
    Column("storage_element_id", Text, nullable=False),
    Column(
        "abandoned",
        ARRAY(Text),
        nullable=False,
        server_default=text("'{}'"),
        comment="elements tried before: what they may have is undone too",
    ),
    Column("owner", Text, nullable=False),
    Column("due_at", DateTime(timezone=True), comment="when admin must act; null: never again"),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("reason", Text, nullable=False, server_default=text("''"), comment="why it is undone"),
    Column("last_error", Text, nullable=False, server_default=text("''")),
    Column("begun_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("wanted", JSONB, comment="what a change is to do; null for an upload"),
    Column("problem", JSONB, comment="why the element refused a change for good"),
    Index("sagas_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    Index("sagas_finished", "updated_at", postgresql_where=text("due_at IS NULL")),
    Index("sagas_queued_by_file", "file_id", postgresql_where=text("state = 'queued'")),
    Index("sagas_queued_by_element", "storage_element_id", postgresql_where=text("state = 'queued'")),
)
"""Admin's alone to write. Elements read it to learn what became of a file whose catalog row is lost, the
ingester to see what is queued for a file."""

registry = Table(
    "registry",
    metadata,
    Column("single", Boolean, primary_key=True, server_default=text("true")),
    Column("version", BigInteger, nullable=False),
    Column("generation", BigInteger, nullable=False, server_default=text("1")),
    Column("generation_started_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("identity", Text, comment="of the database, as last seen; null: not yet"),
    Column("attended_at", DateTime(timezone=True), comment="when an admin last looked after sagas"),
)
"""One row, admin's alone to write. Elements read it to learn that the catalog went back in time."""

claimed_ids = Table(
    "claimed_ids",
    metadata,
    Column("file_id", UUID, primary_key=True),
    Column("saga_id", UUID, nullable=False, comment="the upload that may put the file, or has put it"),
    Column("used", Boolean, nullable=False, server_default=text("false"), comment="the file existed"),
)
"""The ids that clients made, and those of deleted files, one row each for ever: admin's alone."""

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("client_id", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False, comment="of the request, all but its body"),
    Column("saga_id", UUID, nullable=False, comment="the saga of the try that runs, or that was answered"),
    Column("file_id", UUID),
    Column("from_revision", Integer, comment="what an update found before it changed anything"),
    Column("held_until", DateTime(timezone=True), nullable=False, comment="the lease of the running try"),
    Column("status", Integer, comment="of the first answer; null: none yet"),
    Column("headers", JSONB),
    Column("body", LargeBinary),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Index("idempotency_keys_by_saga", "saga_id", unique=True),
    Index("idempotency_keys_by_age", "created_at"),
)
"""The ingester's to write, but for the answer of an upload, which admin writes with the commit."""

outbox = Table(
    "outbox",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("channel", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)

refilled = Table(
    "refilled",
    metadata,
    Column("file_id", UUID(as_uuid=False), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False),
)
"""Rows of `files` that query has added in the last minutes. Only the functions below use it."""

changes_purged = Table(
    "changes_purged",
    metadata,
    Column("txid", BigInteger, nullable=False, comment="the last change that was purged"),
    Column("position", BigInteger, nullable=False),
)
"""One row. A reader of `changes` whose cursor is older has missed some."""

changes = Table(
    "changes",
    metadata,
    Column("txid", BigInteger, primary_key=True, autoincrement=False, comment="the transaction that changed the file"),
    Column("position", BigInteger, Identity(always=True), primary_key=True),
    Column("change", Text, nullable=False, comment="created, updated, deleted"),
    Column("file_id", UUID(as_uuid=False), nullable=False),
    Column("revision", Integer, nullable=False, comment="of a deleted file its last one"),
    Column("at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)
"""The change feed. A trigger on `files` writes it, so that no writer of the catalog can forget to."""

PENDING_LIST = {"gin_pending_list_limit": "1024"}
"""KiB. A search reads the pending list of an index from end to end."""
file_search = Table(
    "file_search",
    metadata,
    Column("file_id", UUID(as_uuid=False), primary_key=True),
    Column("revision", Integer, nullable=False, comment="the revision of the file that is indexed"),
    Column("words", TSVECTOR, nullable=False, comment="stems with positions, and whole words"),
    Column("name_grams", ARRAY(Integer), nullable=False, comment="hashed trigrams of the name"),
    Column(
        "created_at", DateTime(timezone=True), nullable=False, comment="of the file, as the columns below: for sorting"
    ),
    Column("updated_at", DateTime(timezone=True), nullable=False),
    Column("filename", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False, comment="-1: indexed by an earlier version, will be replaced"),
    Index("file_search_by_created", "created_at", "file_id"),
    Index("file_search_by_updated", "updated_at", "file_id"),
    Index("file_search_by_filename", "filename", "file_id"),
    Index("file_search_by_size", "size_bytes", "file_id"),
    Index("file_search_by_words", "words", postgresql_using="gin", postgresql_with=PENDING_LIST),
    Index("file_search_by_name_grams", "name_grams", postgresql_using="gin", postgresql_with=PENDING_LIST),
)
"""Admin's to write (artstore.catalog.search_index), within about a second after the change of the file."""

search_progress = Table(
    "search_progress",
    metadata,
    Column("txid", BigInteger, nullable=False, comment="the last change that is indexed"),
    Column("position", BigInteger, nullable=False),
    Column("walked_to", UUID(as_uuid=False), comment="all rows are being indexed, up to here; null: done"),
)
"""One row."""

SEARCH = (
    "CREATE TEXT SEARCH DICTIONARY artstore_english (TEMPLATE = pg_catalog.snowball, LANGUAGE = english)",
    "CREATE TEXT SEARCH DICTIONARY artstore_russian (TEMPLATE = pg_catalog.snowball, LANGUAGE = russian)",
    "CREATE TEXT SEARCH CONFIGURATION artstore (COPY = pg_catalog.russian)",
    "ALTER TEXT SEARCH CONFIGURATION artstore ALTER MAPPING REPLACE pg_catalog.english_stem WITH artstore_english",
    "ALTER TEXT SEARCH CONFIGURATION artstore ALTER MAPPING REPLACE pg_catalog.russian_stem WITH artstore_russian",
    """INSERT INTO search_progress (txid, position, walked_to)
    VALUES (0, 0, '00000000-0000-0000-0000-000000000000')""",
)
"""Stems Russian and English words. No stop words: names consist of short words, and phrases need each."""

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
"""Writes rows of `files` and their events in one transaction: a statement for each table, each planned once per connection.

A pending row never replaces an available one; an available row replaces a pending one of the same revision. A change on
the row's own element is `pending` while that element does not know yet that the upload is committed: the row stays
available. A pending row of another element is a file that moves there."""
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
    "REVOKE ALL ON FUNCTION refill_files(jsonb), take_back_refilled(jsonb) FROM PUBLIC",
)
"""All that query may write: it has no grant on `files` and `outbox`. A missing row is added, an available one
is brought to the same or a higher revision of the same file of the same owner on the same element. Only a row
that was added here may be taken back, within ten minutes. The events go to one channel."""

for statement in (
    "INSERT INTO changes_purged (txid, position) VALUES (0, 0)",
    *RECORD_CHANGES,
    WRITE_FILES,
    *REFILL,
    *SEARCH,
):
    event.listen(metadata, "after_create", DDL(statement))  # type: ignore[no-untyped-call]
