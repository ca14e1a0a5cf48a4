"""The first schema: catalog and outbox (artstore.catalog.tables), and admin's own tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _catalog()
    _identity()
    _elements()
    _sagas()
    _audit()


def _moment(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _catalog() -> None:
    op.create_table(
        "files",
        sa.Column("file_id", UUID(as_uuid=False), primary_key=True),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False, comment="pending while its saga is open, then available"),
        sa.Column("saga_id", UUID(as_uuid=False), comment="the upload saga that put it, while pending"),
        sa.Column("storage_element_id", sa.Text, nullable=False),
        sa.Column("attributes", sa.Text, nullable=False, comment="attr.json to the byte: what is answered"),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("content_type", sa.Text, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("tags", ARRAY(sa.Text), nullable=False),
        sa.Column("metadata", JSONB, nullable=False),
        _moment("created_at"),
        _moment("updated_at"),
        _moment("expires_at", nullable=True),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=False, comment="when last seen on disk"),
    )
    op.create_index("files_by_created", "files", ["created_at", "file_id"])
    op.create_index("files_by_filename", "files", ["filename", "file_id"])
    op.create_index("files_by_size", "files", ["size_bytes", "file_id"])
    op.create_index("files_by_owner", "files", ["owner", "created_at"])
    op.create_index("files_by_element", "files", ["storage_element_id", "file_id"])
    op.create_index("files_by_tags", "files", ["tags"], postgresql_using="gin")
    op.create_index(
        "files_by_metadata",
        "files",
        ["metadata"],
        postgresql_using="gin",
        postgresql_ops={"metadata": "jsonb_path_ops"},
    )
    op.create_index(
        "files_expiring",
        "files",
        ["storage_element_id", "expires_at"],
        postgresql_where=sa.text("expires_at IS NOT NULL"),
    )
    op.create_index("files_pending", "files", ["checked_at"], postgresql_where=sa.text("state = 'pending'"))
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("channel", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
    )


def _identity() -> None:
    op.create_table(
        "accounts",
        sa.Column("account_id", UUID, primary_key=True),
        sa.Column("client_id", sa.Text, nullable=False, unique=True),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("permissions", ARRAY(sa.Text), nullable=False, comment="of a SERVICE account; else the role's"),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("suspended", sa.Boolean, nullable=False),
        sa.Column("rate_per_minute", sa.Integer),
        _moment("expires_at", nullable=True),
        sa.Column("secret_hash", sa.LargeBinary, nullable=False),
        sa.Column("previous_secret_hash", sa.LargeBinary),
        _moment("previous_secret_until", nullable=True),
        _moment("created_at"),
        _moment("updated_at"),
    )
    op.create_table(
        "signing_keys",
        sa.Column("kid", sa.Text, primary_key=True),
        sa.Column("state", sa.Text, nullable=False, comment="next, active, retiring"),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False, comment="when it came into its state"),
        sa.Column("public_key", sa.LargeBinary, nullable=False, comment="SubjectPublicKeyInfo, DER"),
        sa.Column("private_sealed", sa.LargeBinary, nullable=False, comment="PKCS #8 under AES-256-GCM"),
    )
    # Two active keys would mean that two admins rotated at once: PostgreSQL refuses that, whatever the code does.
    op.create_index(
        "signing_keys_one_of_each",
        "signing_keys",
        ["state"],
        unique=True,
        postgresql_where=sa.text("state IN ('active', 'next')"),
    )


def _elements() -> None:
    op.create_table(
        "storage_elements",
        sa.Column("element_id", sa.Text, primary_key=True),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("backend", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("capacity", JSONB, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("priority_pinned", sa.Boolean, nullable=False, comment="set at admin: reports do not change it"),
        sa.Column("status", sa.Text, nullable=False, comment="online, away"),
        _moment("last_seen_at"),
        _moment("registered_at"),
        sa.Column("read_only_reason", sa.Text),
    )
    op.create_table(
        "registry",
        sa.Column("single", sa.Boolean, primary_key=True, server_default=sa.text("true")),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.CheckConstraint("single", name="registry_is_one_row"),
    )
    # Versions begin at the present millisecond: a database made anew goes on above what subscribers have seen.
    op.execute("INSERT INTO registry (version) VALUES ((extract(epoch FROM clock_timestamp()) * 1000)::bigint)")


def _sagas() -> None:
    op.create_table(
        "sagas",
        sa.Column("saga_id", UUID, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False, comment="upload"),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("file_id", UUID, nullable=False),
        sa.Column("storage_element_id", sa.Text, nullable=False),
        sa.Column(
            "abandoned",
            ARRAY(sa.Text),
            nullable=False,
            server_default=sa.text("'{}'"),
            comment="elements tried before: what they may have is undone too",
        ),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), comment="when admin must act; null: never again"),
        sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("reason", sa.Text, nullable=False, server_default=sa.text("''"), comment="why it is undone"),
        sa.Column("last_error", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("begun_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
    )
    op.create_index("sagas_due", "sagas", ["due_at"], postgresql_where=sa.text("due_at IS NOT NULL"))
    op.create_index("sagas_finished", "sagas", ["updated_at"], postgresql_where=sa.text("due_at IS NULL"))


def _audit() -> None:
    op.create_table(
        "audit_keys",
        sa.Column("chain", sa.Text, primary_key=True),
        sa.Column("public_key", sa.LargeBinary, nullable=False, comment="Ed25519, raw"),
        sa.Column("private_sealed", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "audit_events",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("chain", sa.Text, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("prev", sa.Text, nullable=False, comment="hash of the event before it in the chain"),
        _moment("timestamp"),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("resource", sa.Text, nullable=False),
        sa.Column("result", sa.Text, nullable=False),
        sa.Column("metadata", JSONB, nullable=False),
        sa.Column("signature", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False, comment="for the next event's prev; verifying computes it anew"),
        sa.UniqueConstraint("chain", "seq", name="audit_events_chain_seq"),
    )
    op.execute(
        """
        CREATE FUNCTION audit_events_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'audit_events takes inserts only';
        END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER audit_events_insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_events
        FOR EACH STATEMENT EXECUTE FUNCTION audit_events_refuse()
        """
    )
