"""While a dependency is unavailable, answers name it, and everything that does not need it still works."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from tests.rig import Rig, running, until

from artstore.catalog.recent import record_key
from artstore.clock import uuid7
from artstore.contracts.files import encode
from artstore.testing.services import (
    PostgresServer,
    ValkeyServer,
    frozen,
    start_postgres,
    start_valkey,
    temporary_folder,
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


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    with temporary_folder("artstore-frozen-") as folder:
        server = start_postgres(folder)
        yield server
        server.discard()


async def test_reads_continue_without_redis_and_name_it(own: WithOwnValkey) -> None:
    rig = own.rig
    known, unknown = rig.first.put(b"known"), rig.first.put(b"unknown")
    await rig.note(known, unknown)
    assert await rig.source(known) == "database"
    own.stop()
    await until(lambda: not rig.context.invalidation.subscribed)
    for file in (known, unknown):
        answer = await rig.get(f"/api/files/{file.file_id}")
        assert (answer.status_code, answer.headers["x-artstore-source"]) == (200, "database")
        assert answer.headers["x-artstore-degraded"] == "redis"
    content = await rig.get(f"/api/files/{known.file_id}/content")
    assert (content.content, content.headers["x-artstore-source"]) == (b"known", "database"), "memory may be behind"
    assert content.headers["x-artstore-degraded"] == "redis"
    assert (await rig.get("/health/ready")).status_code == 200


async def test_every_answer_names_unavailable_dependencies(own: WithOwnValkey) -> None:
    rig = own.rig
    file = rig.first.put(b"content")
    await rig.note(file)
    path = f"/api/files/{file.file_id}"
    for _ in range(2):
        assert "x-artstore-degraded" not in (await rig.get(path)).headers
    own.stop()
    await until(lambda: not rig.context.invalidation.subscribed)
    for asked in (path, path, f"{path}/content", "/api/files", f"/api/files/{uuid7()}", "/api/files/no-id"):
        assert (await rig.get(asked)).headers["x-artstore-degraded"] == "redis", asked


async def test_answers_from_memory_and_redis_name_unavailable_postgresql(
    valkey: ValkeyServer, postgres: PostgresServer, signer: Signer
) -> None:
    async with running(postgres, valkey, signer) as rig:
        file, other = rig.first.put(b"content"), rig.first.put(b"other")
        await rig.note(file, other)
        for each in (file, other):
            await rig.source(each)
        rig.context.lookup.invalidate(other.file_id, 2)
        name = await _name_of(rig)
        await rig.engine.dispose()
        await _forbid(postgres, name)
        await until(lambda: _says_away(rig, "database"))
        for each, source in ((file, "memory"), (other, "redis")):
            answer = await rig.get(f"/api/files/{each.file_id}")
            assert (answer.headers["x-artstore-source"], answer.headers["x-artstore-degraded"]) == (source, "database")
        listing = await rig.get("/api/files")
        assert (listing.status_code, listing.headers["x-artstore-degraded"]) == (503, "database")


async def test_a_frozen_database_does_not_delay_a_lookup(
    own_postgres: PostgresServer, valkey: ValkeyServer, signer: Signer
) -> None:
    """With a command timeout of a minute: only the lookup's own patience can have ended the wait."""
    async with running(own_postgres, valkey, signer, catalog_timeout_s=0.5, database_command_timeout_s=60) as rig:
        files = [rig.first.put(b"%d" % number) for number in range(8)]
        await rig.note(*files)
        await rig.engine.dispose()
        with frozen(own_postgres.process.pid):
            for file in files:
                async with asyncio.timeout(120):
                    answer = await rig.get(f"/api/files/{file.file_id}")
                assert (answer.status_code, answer.headers["x-artstore-source"]) == (200, "attributes")
                assert answer.headers["x-artstore-degraded"] == "database"


async def test_the_subscription_resumes_after_redis_is_back(own: WithOwnValkey) -> None:
    rig = own.rig
    file = rig.first.put(b"content")
    await rig.note(file)
    await rig.source(file)
    own.stop()
    await until(lambda: not rig.context.invalidation.subscribed)
    await rig.source(file)
    newer = replace(file, revision=2, filename="changed meanwhile")
    rig.first.store(newer, b"content")
    await rig.note(newer, change="update")
    own.start()
    await until(lambda: rig.context.invalidation.subscribed)
    answer = await rig.get(f"/api/files/{file.file_id}")
    assert answer.json()["filename"] == "changed meanwhile"
    await rig.redis.connection_pool.disconnect()
    await until(lambda: _is_in_redis(rig, file.file_id, encode(newer).decode()))


async def test_elements_answer_without_the_catalog(rig: Rig) -> None:
    """The table is gone: as bad as a server that is down, and harder to tell from an empty catalog."""
    file = rig.second.put(b"content")
    async with rig.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE files RENAME TO gone"))
    answer = await rig.get(f"/api/files/{file.file_id}")
    assert (answer.status_code, answer.headers["x-artstore-source"]) == (200, "attributes")
    assert answer.headers["x-artstore-degraded"] == "database"
    listing = await rig.get("/api/files")
    assert (listing.status_code, listing.json()["away"]) == (503, "database")
    assert int(listing.headers["retry-after"]) > 0


async def test_without_postgresql_files_are_read_and_lists_are_refused(
    valkey: ValkeyServer, postgres: PostgresServer, signer: Signer
) -> None:
    async with running(postgres, valkey, signer) as rig:
        file = rig.first.put(b"content")
        name = await _name_of(rig)
        await rig.engine.dispose()
        await _forbid(postgres, name)
        answer = await rig.get(f"/api/files/{file.file_id}")
        assert (answer.status_code, answer.headers["x-artstore-source"]) == (200, "attributes")
        assert answer.headers["x-artstore-degraded"] == "database"
        assert (await rig.get(f"/api/files/{file.file_id}/content")).content == b"content"
        assert (await rig.get("/api/files")).status_code == 503


async def _name_of(rig: Rig) -> str:
    async with rig.engine.connect() as connection:
        return str(await connection.scalar(text("SELECT current_database()")))


async def _says_away(rig: Rig, name: str) -> bool:
    report: dict[str, Any] = (await rig.get("/health/ready")).json()
    return not report["checks"][name]["ok"]


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
    return str(await rig.redis.get(record_key(file_id))).endswith(f" {expected}")
