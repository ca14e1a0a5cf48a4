"""Query may write rows into the catalog that an element answered, and nothing else, in a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from artstore.catalog.tables import metadata
from artstore.catalog.write import FileEntry, refill, take_back
from artstore.contracts.files import Attributes, encode
from artstore.testing.services import PostgresServer

from .test_write import SAGA, events, new_file, noted, state


@pytest.fixture(scope="module")
async def engine(postgres: PostgresServer) -> AsyncIterator[AsyncEngine]:
    made = create_async_engine(postgres.url(await postgres.new_database()))
    async with made.begin() as connection:
        await connection.run_sync(metadata.create_all)
    yield made
    await made.dispose()


async def refilled(engine: AsyncEngine, *files: Attributes) -> set[str]:
    async with engine.begin() as connection:
        return await refill(connection, files)


async def taken_back(engine: AsyncEngine, *files: Attributes) -> int:
    async with engine.begin() as connection:
        return await take_back(connection, files)


async def row(engine: AsyncEngine, file: Attributes) -> Any:
    async with engine.begin() as connection:
        found = await connection.execute(text("SELECT * FROM files WHERE file_id = :id"), {"id": file.file_id})
        return found.mappings().one()


async def test_a_missing_row_is_added_as_the_element_would_write_it(engine: AsyncEngine) -> None:
    await events(engine)
    written, added = new_file(), new_file(expires_at="2027-01-01T00:00:00.000000Z", retention="temporary")
    await noted(engine, FileEntry(replace(added, file_id=written.file_id), "put"))
    assert await refilled(engine, added) == {added.file_id}
    one, other = dict(await row(engine, written)), dict(await row(engine, added))
    differing = {"file_id", "attributes", "checked_at"}
    assert {k: v for k, v in one.items() if k not in differing} == {
        k: v for k, v in other.items() if k not in differing
    }
    assert other["attributes"].encode() == encode(added)
    assert [(event.file_id, event.change) for event in await events(engine)] == [(added.file_id, "put")]


async def test_a_row_that_is_there_is_dated_and_raised_and_never_lowered(engine: AsyncEngine) -> None:
    file = new_file(revision=2)
    await noted(engine, FileEntry(file, "put"))
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE files SET checked_at = now() - interval '25 hours'"))
    before = (await row(engine, file))["checked_at"]
    assert await refilled(engine, file) == set()
    assert (await row(engine, file))["checked_at"] > before
    assert await refilled(engine, replace(file, revision=3, filename="third")) == set()
    assert await refilled(engine, replace(file, revision=1, filename="first")) == set()
    assert ((await row(engine, file))["revision"], (await row(engine, file))["filename"]) == (3, "third")


@pytest.mark.parametrize(
    "other", [{"owner": "thief"}, {"storage_element_id": "se-02"}, {"created_at": "2025-01-01T00:00:00.000000Z"}]
)
async def test_a_row_does_not_become_another_file(engine: AsyncEngine, other: dict[str, str]) -> None:
    file = new_file()
    await noted(engine, FileEntry(file, "put"))
    await refilled(engine, replace(file, revision=9, **other))
    assert ((await row(engine, file))["revision"], (await row(engine, file))["owner"]) == (1, "tester")


async def test_the_row_of_an_open_upload_is_left_alone(engine: AsyncEngine) -> None:
    file = new_file()
    await noted(engine, FileEntry(file, "put", SAGA))
    await refilled(engine, replace(file, revision=2))
    assert await state(engine, file.file_id) == ("pending", 1, SAGA)
    assert await taken_back(engine, file) == 0


async def test_only_an_unchanged_row_that_was_added_here_is_removed_again(
    engine: AsyncEngine,
) -> None:
    own, noted_, raised, old = new_file(), new_file(), new_file(), new_file()
    await noted(engine, FileEntry(noted_, "put"))
    await refilled(engine, own, noted_, raised, old)
    await noted(engine, FileEntry(replace(raised, revision=2), "update"))
    async with engine.begin() as connection:
        late = "UPDATE refilled SET at = now() - interval '11 minutes' WHERE file_id = :id"
        await connection.execute(text(late), {"id": old.file_id})
    await events(engine)
    assert await taken_back(engine, own, noted_, raised, old) == 1
    assert await state(engine, own.file_id) is None
    assert await state(engine, noted_.file_id) == ("available", 1, None)
    assert await state(engine, raised.file_id) == ("available", 2, None)
    assert await state(engine, old.file_id) == ("available", 1, None)
    assert [(event.file_id, event.change) for event in await events(engine)] == [(own.file_id, "delete")]
    assert await taken_back(engine, own) == 0


async def test_what_was_added_is_remembered_for_minutes_only(engine: AsyncEngine) -> None:
    await refilled(engine, new_file())
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE refilled SET at = now() - interval '11 minutes'"))
    last = new_file()
    await refilled(engine, last)
    async with engine.begin() as connection:
        assert (await connection.execute(text("SELECT file_id::text FROM refilled"))).scalars().all() == [last.file_id]
