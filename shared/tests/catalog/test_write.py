"""The catalog's rows and events in a real PostgreSQL: revisions and states decide, whatever the order of arrival."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from artstore.catalog.find import find_file
from artstore.catalog.tables import metadata
from artstore.catalog.write import FileEntry, delete_files, upsert_files
from artstore.clock import uuid7
from artstore.contracts.events import FILES_CHANNEL, FileChanged
from artstore.contracts.files import Attributes, encode
from artstore.testing.services import PostgresServer

SAGA = "0197aaaa-0000-7000-8000-00000000000a"
LATER = "2026-01-01T00:00:00.000000Z"


def new_file(**changes: Any) -> Attributes:
    fields: dict[str, Any] = {
        "file_id": str(uuid7()),
        "revision": 1,
        "filename": "Договор №5 🗄️.pdf",
        "content_type": "application/pdf",
        "size_bytes": 2**40,
        "checksum": "sha256:" + hashlib.sha256().hexdigest(),
        "storage_element_id": "se-01",
        "created_at": LATER,
        "updated_at": LATER,
        "owner": "tester",
        "tags": ["договор", 'with "quotes", and commas', "{}"],
        "metadata": {"number": 5, "nested": {"a": [1, None, True]}, "кавычка": "'"},
        "retention": "permanent",
        "expires_at": None,
    }
    return Attributes(**{**fields, **changes})


@pytest.fixture(scope="module")
async def engine(postgres: PostgresServer) -> AsyncIterator[AsyncEngine]:
    made = create_async_engine(postgres.url(await postgres.new_database()))
    async with made.begin() as connection:
        await connection.run_sync(metadata.create_all)
    yield made
    await made.dispose()


async def noted(engine: AsyncEngine, *entries: FileEntry) -> None:
    async with engine.begin() as connection:
        await upsert_files(connection, entries)


async def state(engine: AsyncEngine, file_id: str) -> tuple[str, int, str | None] | None:
    async with engine.begin() as connection:
        row = await find_file(connection, file_id)
    return (row.state, row.revision, row.saga_id) if row else None


async def events(engine: AsyncEngine) -> list[FileChanged]:
    async with engine.begin() as connection:
        rows = (await connection.execute(text("DELETE FROM outbox RETURNING id, channel, message"))).all()
    assert all(channel == FILES_CHANNEL for _, channel, _ in rows)
    return [msgspec.json.decode(message, type=FileChanged) for _, _, message in sorted(rows)]


async def test_a_row_is_found_again_to_the_byte(engine: AsyncEngine) -> None:
    file = replace(new_file(expires_at=LATER, retention="temporary"), unknown={"later": [1]})
    await noted(engine, FileEntry(file, "put"))
    async with engine.begin() as connection:
        row = await find_file(connection, file.file_id)
        tags = await connection.scalar(text("SELECT tags FROM files WHERE file_id = :id"), {"id": file.file_id})
        assert await find_file(connection, str(uuid7())) is None
    assert row is not None
    assert row.attributes == encode(file)
    assert row.available
    assert tags == file.tags


NOTES = {
    "pending 1": (1, SAGA),
    "available 1": (1, None),
    "available 2": (2, None),
    "available 3": (3, None),
}


@pytest.mark.parametrize("order", list(itertools.permutations(NOTES)), ids=" → ".join)
async def test_in_whatever_order_notes_come_the_newest_stays_and_pending_never_returns(
    engine: AsyncEngine, order: tuple[str, ...]
) -> None:
    file = new_file()
    for name in order:
        revision, saga = NOTES[name]
        await noted(engine, FileEntry(replace(file, revision=revision), "put", saga))
    assert await state(engine, file.file_id) == ("available", 3, None)


async def test_a_change_replaces_the_row_also_while_its_element_holds_the_upload_for_unconfirmed(
    engine: AsyncEngine,
) -> None:
    file = new_file()
    await noted(engine, FileEntry(file, "put"))
    await noted(engine, FileEntry(replace(file, revision=2), "update", SAGA))
    assert await state(engine, file.file_id) == ("available", 2, None)


async def test_a_pending_copy_on_another_element_replaces_no_available_row(engine: AsyncEngine) -> None:
    file = new_file()
    await noted(engine, FileEntry(file, "put"))
    await noted(engine, FileEntry(replace(file, revision=3, storage_element_id="se-02"), "put", SAGA))
    assert await state(engine, file.file_id) == ("available", 1, None)


async def test_a_repeated_note_changes_nothing(engine: AsyncEngine) -> None:
    file = new_file()
    for _ in range(2):
        await noted(engine, FileEntry(file, "put", SAGA))
    assert await state(engine, file.file_id) == ("pending", 1, SAGA)
    for _ in range(2):
        await noted(engine, FileEntry(file, "put"))
    assert await state(engine, file.file_id) == ("available", 1, None)


async def test_a_group_is_written_whole_with_one_event_each(engine: AsyncEngine) -> None:
    await events(engine)
    files = [new_file(revision=2) for _ in range(50)]
    await noted(engine, *(FileEntry(file, "put") for file in files))
    assert [event.file_id for event in await events(engine)] == [file.file_id for file in files]
    for file in files:
        assert await state(engine, file.file_id) == ("available", 2, None)
    await noted(engine)
    assert await events(engine) == []


async def test_a_new_file_has_no_event(engine: AsyncEngine) -> None:
    """No reader can have cached anything of it; its change has one."""
    await events(engine)
    new, changed = new_file(), new_file(revision=2)
    await noted(engine, FileEntry(new, "put", SAGA), FileEntry(changed, "update"))
    await noted(engine, FileEntry(new, "put"))
    assert [event.file_id for event in await events(engine)] == [changed.file_id]


async def test_forgetting_takes_only_the_row_of_the_element_that_lost_it(engine: AsyncEngine) -> None:
    here, moved = new_file(), new_file(storage_element_id="se-02")
    await noted(engine, FileEntry(here, "put"), FileEntry(moved, "put"))
    await events(engine)
    gone = [
        FileChanged(file_id=file.file_id, revision=1, change="delete", storage_element_id="se-01")
        for file in (here, moved)
    ]
    async with engine.begin() as connection:
        await delete_files(connection, gone)
    assert await state(engine, here.file_id) is None
    assert await state(engine, moved.file_id) == ("available", 1, None)
    assert await events(engine) == gone


async def _lose(engine: AsyncEngine, file: Attributes) -> None:
    async with engine.begin() as connection:
        await upsert_files(connection, [FileEntry(file, "put")])
        raise ConnectionError("lost")


async def test_what_is_rolled_back_leaves_neither_row_nor_event(engine: AsyncEngine) -> None:
    await events(engine)
    file = new_file()
    with pytest.raises(ConnectionError):
        await _lose(engine, file)
    assert await state(engine, file.file_id) is None
    assert await events(engine) == []
