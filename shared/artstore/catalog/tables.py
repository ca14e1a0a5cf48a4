"""The tables several modules touch. Admin's migrations create them; a test holds the two against each other."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, DateTime, Identity, Index, Integer, MetaData, String, Table, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

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
    Column("filename", Text, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("owner", Text, nullable=False),
    Column("tags", ARRAY(Text), nullable=False),
    Column("metadata", JSONB, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True)),
    Column("checked_at", DateTime(timezone=True), nullable=False, comment="when last seen on disk"),
    Index("files_by_created", "created_at", "file_id"),
    Index("files_by_filename", "filename", "file_id"),
    Index("files_by_size", "size_bytes", "file_id"),
    Index("files_by_owner", "owner", "created_at"),
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
    Column("kind", Text, nullable=False, comment="upload"),
    Column("state", Text, nullable=False),
    Column("file_id", UUID, nullable=False),
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
    Index("sagas_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    Index("sagas_finished", "updated_at", postgresql_where=text("due_at IS NULL")),
)
"""Admin's alone to write. Elements read it to learn what became of a file whose catalog row is lost."""

outbox = Table(
    "outbox",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("channel", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)
