"""Every statement on the catalog's table of files could run where a distributed engine spreads it by `file_id`
(docs/decisions/0022-distributed-catalog.md): none has a CTE that writes, calls a volatile function or locks rows."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Iterator

import asyncpg
import pytest
from support.system import ROOT, System

FOLDERS = ("admin-module/app", "storage-element/app", "ingester-module/app", "query-module/app", "shared/artstore")
ON_FILES = re.compile(r"\b(?:FROM|JOIN|INTO|UPDATE)\s+files\b")
WRITE = re.compile(r"\b(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+files\b")
WRITING_CTE = re.compile(r"\bAS\s*(?:(?:NOT\s+)?MATERIALIZED\s*)?\(\s*(?:INSERT|UPDATE|DELETE|MERGE)\b")
LOCK = re.compile(r"\bFOR\s+(?:NO\s+KEY\s+)?(?:UPDATE|SHARE)\b")
CALL = re.compile(r"\b([a-z_0-9]+)\s*\(")
TIMES = {"now", "transaction_timestamp", "statement_timestamp"}
"""Not volatile, but each node has its own: a write gets the time as a value."""
ALLOWED = {"pg_current_wal_lsn"}
"""The element reads the state of the server and its own rows in one snapshot; spread, this would be two statements."""


def in_sources() -> Iterator[tuple[str, str]]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "testing" in path.parts:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", "".join(map(str, parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value


async def in_database(system: System) -> tuple[list[tuple[str, str]], set[str]]:
    """The functions that the migrations have made, and the names of all volatile functions."""
    url = (system.keys / "database-url").read_text().strip().replace("+asyncpg", "")
    connection = await asyncpg.connect(url)
    try:
        own = await connection.fetch(
            "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prokind = 'f'"
        )
        volatile = await connection.fetch(
            "SELECT DISTINCT proname FROM pg_proc WHERE provolatile = 'v' AND pronamespace = 'pg_catalog'::regnamespace"
        )
        return [(row["proname"], row["prosrc"]) for row in own], {row["proname"] for row in volatile}
    finally:
        await connection.close()


def faults_of(statement: str, volatile: set[str]) -> list[str]:
    called = set(CALL.findall(statement))
    forbidden = volatile | TIMES if WRITE.search(statement) else volatile
    faults = [f"calls {name}" for name in sorted(called & forbidden - ALLOWED)]
    if WRITING_CTE.search(statement):
        faults.append("has a CTE that writes")
    if LOCK.search(statement):
        faults.append("locks rows")
    return faults


def test_the_check_finds_what_it_forbids() -> None:
    volatile = {"set_config", "nextval", "gen_random_uuid"}
    for statement in (
        "WITH gone AS (DELETE FROM files RETURNING file_id) SELECT count(*) FROM gone",
        "WITH a AS MATERIALIZED (INSERT INTO outbox VALUES (1)) SELECT FROM files",
        "UPDATE files SET checked_at = now()",
        "INSERT INTO files SELECT gen_random_uuid()",
        "SELECT set_config('synchronous_commit', 'off', true) FROM files",
        "SELECT FROM files FOR UPDATE",
    ):
        assert faults_of(statement, volatile), statement


def test_every_statement_on_files_could_run_where_the_table_is_spread(system: System) -> None:
    if system.data is None:
        pytest.skip("PostgreSQL of a composed system is not reachable from here")
    functions, volatile = asyncio.run(in_database(system))
    statements = [
        (place, statement)
        for place, text in [*in_sources(), *functions]
        for statement in text.split(";")  # those of a function
        if ON_FILES.search(statement)
    ]
    writers = {place for place, statement in statements if WRITE.search(statement)}
    assert writers >= {"write_files", "commit_uploads", "refill_files", "take_back_refilled"}
    assert {"set_config", "nextval", "gen_random_uuid", "clock_timestamp"} <= volatile
    found = [f"{place}: {fault}" for place, statement in statements for fault in faults_of(statement, volatile)]
    assert found == []
