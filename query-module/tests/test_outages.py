"""What is away is said to be; what can still be answered is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from tests.rig import Rig, running, until

from artstore.catalog.recent import record_key
from artstore.contracts.files import encode
from artstore.testing.services import (
    PostgresServer,
    ValkeyServer,
    start_valkey,
)
from artstore.testing.tokens import Signer


@dataclass
class WithOwnValkey:
    """A rig whose Valkey the test may stop and start again."""

    rig: Rig
    valkey: ValkeyServer
    folder: Path

    def stop(self) -> None:
        self.valkey.stop()

    def start(self) -> None:
        self.valkey = start_valkey(self.folder, self.valkey.port)


@pytest.fixture
async def own(postgres: PostgresServer, signer: Signer, tmp_path: Path) -> AsyncIterator[WithOwnValkey]:
    valkey = start_valkey(tmp_path)
    async with running(postgres, valkey, signer) as rig:
        held = WithOwnValkey(rig, valkey, tmp_path)
        yield held
    held.stop()


async def test_without_redis_reads_go_on_and_say_so(own: WithOwnValkey) -> None:
    rig = own.rig
    known, unknown = rig.first.put(b"known"), rig.first.put(b"unknown")
    await rig.note(known, unknown)
    assert await rig.source(known) == "database"
    own.stop()
    await until(lambda: not rig.context.changes.heard)
    for file in (known, unknown):
        answer = await rig.get(f"/api/files/{file.file_id}")
        assert (answer.status_code, answer.headers["x-artstore-source"]) == (200, "database")
        assert answer.headers["x-artstore-degraded"] == "redis"
    content = await rig.get(f"/api/files/{known.file_id}/content")
    assert (content.content, content.headers["x-artstore-source"]) == (b"known", "memory")
    assert content.headers["x-artstore-degraded"] == "redis"
    assert (await rig.get("/health/ready")).status_code == 200


async def test_after_redis_is_back_changes_are_heard_again(own: WithOwnValkey) -> None:
    rig = own.rig
    file = rig.first.put(b"content")
    await rig.note(file)
    await rig.source(file)
    own.stop()
    await until(lambda: not rig.context.changes.heard)
    await rig.source(file)
    newer = replace(file, revision=2, filename="changed meanwhile")
    rig.first.files[file.file_id] = (newer, b"content")
    await rig.note(newer, change="update")
    own.start()
    await until(lambda: rig.context.changes.heard)
    answer = await rig.get(f"/api/files/{file.file_id}")
    assert answer.json()["filename"] == "changed meanwhile"
    await rig.redis.connection_pool.disconnect()
    await until(lambda: _is_in_redis(rig, file.file_id, encode(newer).decode()))


async def test_without_the_catalog_the_elements_are_asked(rig: Rig) -> None:
    """The table is gone: as bad as a server that is away, and harder to tell from an empty catalog."""
    file = rig.second.put(b"content")
    async with rig.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE files RENAME TO gone"))
    answer = await rig.get(f"/api/files/{file.file_id}")
    assert (answer.status_code, answer.headers["x-artstore-source"]) == (200, "attributes")
    assert answer.headers["x-artstore-degraded"] == "database"
    listing = await rig.get("/api/files")
    assert (listing.status_code, listing.json()["away"]) == (503, "database")
    assert int(listing.headers["retry-after"]) > 0


async def test_without_postgresql_files_are_read_and_lists_refused(
    valkey: ValkeyServer, postgres: PostgresServer, signer: Signer
) -> None:
    async with running(postgres, valkey, signer) as rig:
        file = rig.first.put(b"content")
        async with rig.engine.connect() as connection:
            name = await connection.scalar(text("SELECT current_database()"))
        await rig.engine.dispose()
        await _forbid(postgres, str(name))
        answer = await rig.get(f"/api/files/{file.file_id}")
        assert (answer.status_code, answer.headers["x-artstore-source"]) == (200, "attributes")
        assert answer.headers["x-artstore-degraded"] == "database"
        assert (await rig.get(f"/api/files/{file.file_id}/content")).content == b"content"
        assert (await rig.get("/api/files")).status_code == 503


async def _forbid(postgres: PostgresServer, database: str) -> None:
    """No connection to this one database, old or new: what a stopped server looks like from here."""
    engine = create_async_engine(postgres.url("postgres"), isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS false'))
        await connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"), {"name": database}
        )
    await engine.dispose()


async def _is_in_redis(rig: Rig, file_id: str, expected: str) -> bool:
    return bool(await rig.redis.get(record_key(file_id)) == expected)
