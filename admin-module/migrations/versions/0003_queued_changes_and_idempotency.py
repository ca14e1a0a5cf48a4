"""Sagas of changes that wait for their element; answers kept under an Idempotency-Key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, UUID

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.alter_column("sagas", "kind", comment="upload, update, delete, mode", existing_comment="upload")
    op.alter_column("sagas", "file_id", nullable=True, comment="null: of a whole element")
    op.add_column("sagas", sa.Column("wanted", JSONB, comment="what a change is to do; null for an upload"))
    op.add_column("sagas", sa.Column("problem", JSONB, comment="why the element refused a change for good"))
    op.create_index("sagas_queued_by_file", "sagas", ["file_id"], postgresql_where=sa.text("state = 'queued'"))
    op.create_index(
        "sagas_queued_by_element", "sagas", ["storage_element_id"], postgresql_where=sa.text("state = 'queued'")
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("client_id", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.Text, nullable=False, comment="of the request, all but its body"),
        sa.Column("saga_id", UUID, nullable=False, comment="the saga of the try that runs, or that was answered"),
        sa.Column("file_id", UUID),
        sa.Column("from_revision", sa.Integer, comment="what an update found before it changed anything"),
        sa.Column("held_until", sa.DateTime(timezone=True), nullable=False, comment="the lease of the running try"),
        sa.Column("status", sa.Integer, comment="of the first answer; null: none yet"),
        sa.Column("headers", JSONB),
        sa.Column("body", sa.LargeBinary),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
    )
    op.create_index("idempotency_keys_by_saga", "idempotency_keys", ["saga_id"], unique=True)
    op.create_index("idempotency_keys_by_age", "idempotency_keys", ["created_at"])
