from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from artstore.testing.services import PostgresServer, ValkeyServer, free_port, start_postgres, temporary_folder

PATIENCE_S = 120
MODULE = Path(__file__).parent.parent


def wait_for(url: str, status: int) -> httpx.Response:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            answer = httpx.get(url)
            if answer.status_code == status or time.monotonic() > deadline:
                return answer
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def test_admin_is_live_before_postgresql_is_there_and_ready_after(
    valkey: ValkeyServer, tmp_path: Path, start: Callable[..., Any], given_environment: Callable[..., dict[str, str]]
) -> None:
    """And again when PostgreSQL goes and comes back."""
    port = free_port()
    database_url = f"postgresql+asyncpg://postgres@127.0.0.1:{port}/postgres"
    url, process = start(given_environment(database_url, valkey.url(1), tmp_path))
    assert wait_for(f"{url}/health/live", 200).status_code == 200
    waiting = wait_for(f"{url}/health/ready", 503)
    assert (waiting.status_code, waiting.json()["checks"]["database"]["ok"]) == (503, False)
    login = {"client_id": "boss", "client_secret": "b" * 43}
    away = httpx.post(f"{url}/api/auth/token", json=login)
    assert (away.status_code, away.json()["code"], "retry-after" in away.headers) == (503, "unavailable", True)
    with temporary_folder("artstore-late-") as folder:
        for _ in range(2):
            server = start_postgres(folder, port)
            ready = wait_for(f"{url}/health/ready", 200)
            assert ready.status_code == 200, ready.text
            assert httpx.post(f"{url}/api/auth/token", json=login).status_code == 200
            server.stop()
            assert wait_for(f"{url}/health/ready", 503).status_code == 503
    assert process.poll() is None


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("KEY_ENCRYPTION_KEY", "", "KEY_ENCRYPTION_KEY"),
        ("KEY_ENCRYPTION_KEY", "c2hvcnQ=", "KEY_ENCRYPTION_KEY"),
        ("SECRET_HASH_KEY", "A" * 43 + "=", "SECRET_HASH_KEY"),
        ("SECRET_HASH_KEY", "no base64!", "SECRET_HASH_KEY"),
        ("SAGA_LEASE_X", "1", "SAGA_LEASE_X"),
        ("BOOTSTRAP_ACCOUNTS_FILE", "/nowhere", "BOOTSTRAP_ACCOUNTS_FILE"),
    ],
)
def test_a_missing_or_unsafe_setting_stops_the_start_with_one_line(
    tmp_path: Path,
    given_environment: Callable[..., dict[str, str]],
    run: Callable[..., Any],
    name: str,
    value: str,
    words: str,
) -> None:
    ended = run(
        {**given_environment("postgresql+asyncpg://x@127.0.0.1:1/x", "redis://127.0.0.1:1", tmp_path), name: value}
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert words in ended.stderr
    assert value == "" or value not in ended.stderr or name == "BOOTSTRAP_ACCOUNTS_FILE"


async def test_a_schema_of_a_later_version_stops_the_start_and_the_migration_and_stays_as_it_is(
    postgres: PostgresServer,
    valkey: ValkeyServer,
    tmp_path: Path,
    start: Callable[..., Any],
    run: Callable[..., Any],
    given_environment: Callable[..., dict[str, str]],
) -> None:
    """After a downgrade. An admin that runs already goes on, beside the later version that has migrated."""
    given = given_environment(postgres.url(await postgres.new_database()), valkey.url(1), tmp_path)
    url, process = start(given)
    assert wait_for(f"{url}/health/ready", 200).status_code == 200
    connection = await asyncpg.connect(given["DATABASE_URL"].replace("+asyncpg", ""))
    await connection.execute("UPDATE alembic_version SET version_num = '9999'")
    refused = run({**given, "PORT": str(free_port())})
    assert (refused.returncode, "the schema is at revision 9999" in refused.stderr) == (3, True), refused.stderr
    migrating = {**given, "DATABASE_OWNER_URL": given["DATABASE_URL"], "PATH": os.environ["PATH"]}
    migration = subprocess.run(
        [sys.executable, "-m", "app.migrate"], cwd=MODULE, env=migrating, capture_output=True, text=True, timeout=120
    )
    assert (migration.returncode, "the schema is at revision 9999" in migration.stderr) == (3, True), migration.stderr
    assert await connection.fetchval("SELECT version_num FROM alembic_version") == "9999"
    assert wait_for(f"{url}/health/ready", 200).status_code == 200
    assert process.poll() is None
    await connection.close()
