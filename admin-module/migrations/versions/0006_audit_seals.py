"""Seals of exported stretches of the audit log; rows below a seal may be deleted, and nothing else. Only admin's login
writes admin's chain."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_ONLY_SEALED = """
    CREATE FUNCTION {table}_only_sealed() RETURNS trigger LANGUAGE plpgsql SET search_path = {schema}, pg_temp AS $$
    BEGIN
        IF EXISTS ({unsealed}) THEN RAISE EXCEPTION '{table} takes inserts only: only rows below a seal may be deleted';
        END IF;
        RETURN NULL;
    END $$
"""
_LAST_SEAL = "(SELECT body::jsonb -> 'checkpoint' FROM audit_seals ORDER BY number DESC LIMIT 1)"
_UNSEALED = {
    "audit_events": f"""SELECT FROM gone LEFT JOIN jsonb_each({_LAST_SEAL} -> 'heads') AS head ON head.key = gone.chain
        WHERE (head.value ->> 'seq')::bigint IS NULL OR gone.seq >= (head.value ->> 'seq')::bigint""",
    "audit_checkpoints": f"""SELECT FROM gone WHERE gone.number >= coalesce(({_LAST_SEAL} ->> 'number')::bigint, 0)""",
}


def upgrade() -> None:
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    op.create_table(
        "audit_seals",
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("body", sa.Text, nullable=False, comment="canonical JSON with its signature"),
    )
    op.execute(
        """CREATE TRIGGER audit_seals_insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_seals
        FOR EACH STATEMENT EXECUTE FUNCTION audit_events_refuse()"""
    )
    for table, unsealed in _UNSEALED.items():
        op.execute(f"DROP TRIGGER {table}_insert_only ON {table}")
        op.execute(
            f"""CREATE TRIGGER {table}_insert_only BEFORE UPDATE OR TRUNCATE ON {table}
            FOR EACH STATEMENT EXECUTE FUNCTION audit_events_refuse()"""
        )
        op.execute(_ONLY_SEALED.format(table=table, schema=schema, unsealed=unsealed))
        op.execute(
            f"""CREATE TRIGGER {table}_only_sealed AFTER DELETE ON {table} REFERENCING OLD TABLE AS gone
            FOR EACH STATEMENT EXECUTE FUNCTION {table}_only_sealed()"""
        )
    # The right to write accounts is what distinguishes admin's login from the other modules'; the owner is exempt.
    for table in ("audit_events", "audit_keys"):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY {table}_read ON {table} FOR SELECT USING (true)")
        op.execute(f"CREATE POLICY {table}_prune ON {table} FOR DELETE USING (true)")
        op.execute(
            f"""CREATE POLICY {table}_write ON {table} FOR INSERT
            WITH CHECK (chain <> 'admin' OR has_table_privilege('accounts'::regclass, 'INSERT'))"""
        )
