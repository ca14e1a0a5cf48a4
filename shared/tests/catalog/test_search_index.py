"""The index of words follows the catalog, whatever happens to the feed that it reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from artstore.catalog import search_index
from artstore.catalog.search_index import is_behind, measure_lag_s, update_index
from artstore.catalog.tables import metadata
from artstore.catalog.write import FileEntry, upsert_files
from artstore.clock import uuid7
from artstore.contracts.files import Attributes
from artstore.database import Database
from artstore.peers.breaker import Breakers
from artstore.testing.fakes import new_file
from artstore.testing.services import PostgresServer

DEADLINE_S = 120


@dataclass
class Catalog:
    engine: AsyncEngine
    database: Database

    async def write(self, *files: Attributes, saga_id: str | None = None) -> None:
        async with self.engine.begin() as connection:
            await upsert_files(connection, [FileEntry(file, "put", saga_id) for file in files])

    async def sql(self, statement: str) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(text(statement))

    async def index(self) -> None:
        await eventually(self._is_indexed)

    async def _is_indexed(self) -> bool:
        await update_index(self.database)
        return not await is_behind(self.database)

    async def differences(self) -> int:
        async with self.engine.begin() as connection:
            found = await connection.execute(
                text(
                    """SELECT count(*) FROM (SELECT file_id, revision FROM files WHERE state = 'available') AS files
                    FULL JOIN file_search USING (file_id, revision)
                    WHERE files.revision IS NULL OR file_search.words IS NULL"""
                )
            )
            return int(found.scalar_one())


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await holds():
            await asyncio.sleep(0.01)


@pytest.fixture
async def catalog(postgres: PostgresServer) -> AsyncIterator[Catalog]:
    engine = create_async_engine(postgres.url(await postgres.new_database()))
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    yield Catalog(engine, Database(engine, Breakers(CollectorRegistry()).to("postgresql", ())))
    await engine.dispose()


def files(count: int) -> list[Attributes]:
    return [new_file(b"x", filename=f"file {number}") for number in range(count)]


async def test_creations_changes_and_deletions_are_followed(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_index, "BATCH_ROWS", 4)
    await catalog.write(*files(11))
    await catalog.write(new_file(b"x", filename="pending"), saga_id=str(uuid7()))
    await catalog.index()
    assert await catalog.differences() == 0
    await catalog.sql("UPDATE files SET revision = 2, filename = 'new' WHERE filename IN ('file 3', 'file 4')")
    await catalog.sql("DELETE FROM files WHERE filename IN ('file 5', 'new')")
    await catalog.write(*files(3))
    assert await catalog.differences() > 0
    assert await measure_lag_s(catalog.database) > 0
    await catalog.index()
    assert await catalog.differences() == 0
    assert await measure_lag_s(catalog.database) == 0


@pytest.mark.parametrize(
    "lost",
    [
        "UPDATE search_progress SET txid = 0, position = 0, walked_to = '00000000-0000-0000-0000-000000000000'",
        "UPDATE search_progress SET txid = 1000000000, position = 1",  # a dump that was restored into another server
        "UPDATE changes_purged SET (txid, position) = (SELECT txid, position FROM changes ORDER BY txid DESC LIMIT 1)",
    ],
)
async def test_files_that_are_not_in_the_feed_are_indexed(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    monkeypatch.setattr(search_index, "BATCH_ROWS", 4)
    await catalog.write(*files(9))
    await catalog.sql("DELETE FROM changes")
    await catalog.index()
    await catalog.write(*files(2))
    await catalog.index()
    await catalog.sql("DELETE FROM file_search")
    await catalog.write(*files(2))
    await catalog.sql("UPDATE files SET created_at = created_at - interval '1 hour'")
    await catalog.sql(lost)
    if "walked_to" in lost:
        assert await measure_lag_s(catalog.database) > 3600
    await catalog.index()
    assert await catalog.differences() == 0


async def test_a_change_of_a_transaction_that_commits_late_is_not_skipped(catalog: Catalog) -> None:
    late, early = files(2)
    async with catalog.engine.begin() as connection:
        await upsert_files(connection, [FileEntry(late, "put", None)])
        await catalog.write(early)
        await update_index(catalog.database)
    await catalog.index()
    assert await catalog.differences() == 0


async def test_several_admins_share_the_work_without_conflict(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_index, "BATCH_ROWS", 5)
    await catalog.write(*files(40))
    await asyncio.gather(*(update_index(catalog.database) for _ in range(4)))
    await catalog.index()
    assert await catalog.differences() == 0


async def test_uploads_come_first_and_an_import_is_caught_up_afterwards(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def note_pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(search_index, "BATCH_ROWS", 4)
    monkeypatch.setattr(search_index, "YIELD_FACTOR", 1e6)
    await catalog.index()
    await catalog.sql("DELETE FROM changes")
    await catalog.write(*files(8))
    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "sleep", note_pause)
        await update_index(catalog.database)
        assert max(pauses) > search_index.PAUSE_S
        pauses.clear()
        await catalog.write(*files(8))
        await catalog.sql("UPDATE changes SET at = at - interval '1 minute'")
        await update_index(catalog.database)
        assert max(pauses) == search_index.PAUSE_S
    await catalog.index()
    assert await catalog.differences() == 0
