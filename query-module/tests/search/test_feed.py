"""The change feed over HTTP out of a real catalog: each change once, in an order that never changes."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from tests.rig import Rig

from app.search.feed import Position, decode_position, encode_position
from artstore.catalog.write import FileEntry, delete_files, upsert_files
from artstore.clock import uuid7
from artstore.contracts.events import FileChanged
from artstore.contracts.files import Attributes
from artstore.testing.fakes import new_file

Items = list[dict[str, Any]]


@pytest.fixture(autouse=True)
async def from_here(rig: Rig) -> str:
    """The cursor before a test's own changes; the one feed is shared by all tests."""
    async with rig.engine.begin() as connection:
        await connection.execute(text("TRUNCATE changes"))
        await connection.execute(text("UPDATE changes_purged SET txid = 0, position = 0"))
    answer = await rig.get("/api/changes")
    return str(answer.json()["next_cursor"])


async def read(rig: Rig, since: str, **parameters: Any) -> tuple[Items, str]:
    answer = await rig.client.get("/api/changes", params={"since": since, **parameters})
    assert answer.status_code == 200, answer.text
    return answer.json()["items"], answer.json()["next_cursor"]


async def drop(connection: AsyncConnection, file: Attributes) -> None:
    event = FileChanged(
        file_id=file.file_id, revision=file.revision, change="delete", storage_element_id=file.storage_element_id
    )
    await delete_files(connection, [event])


async def test_each_change_is_returned_once_with_the_present_record(rig: Rig, from_here: str) -> None:
    one, other = new_file(b"1"), new_file(b"2")
    changed = new_file(b"1", revision=2, file_id=one.file_id, filename="new name")
    await rig.note(one)
    items, cursor = await read(rig, from_here)
    assert [(item["change"], item["revision"], item["file"]["filename"]) for item in items] == [
        ("created", 1, one.filename)
    ]
    await rig.note(other)
    await rig.note(changed)
    async with rig.engine.begin() as connection:
        await drop(connection, other)
    items, cursor = await read(rig, cursor)
    assert [(item["change"], item["file_id"], item["revision"]) for item in items] == [
        ("created", other.file_id, 1),
        ("updated", one.file_id, 2),
        ("deleted", other.file_id, 1),
    ]
    assert [item["file"] and item["file"]["filename"] for item in items] == [None, "new name", None]
    assert await read(rig, cursor) == ([], cursor)


async def test_only_real_changes_are_listed(rig: Rig, from_here: str) -> None:
    file = new_file(b"1", revision=2)
    saga = str(uuid7())
    await rig.note(file, saga_id=saga)
    assert (await read(rig, from_here))[0] == [], "an upload that is not committed"
    for _ in range(3):
        await rig.note(file)
    await rig.note(new_file(b"0", file_id=file.file_id), file)
    assert [item["change"] for item in (await read(rig, from_here))[0]] == ["created"]
    open_upload = new_file(b"2")
    await rig.note(open_upload, saga_id=saga)
    async with rig.engine.begin() as connection:
        await drop(connection, open_upload)
    assert len((await read(rig, from_here))[0]) == 1, "an upload that was undone"


async def test_a_page_continues_where_the_last_one_ended(rig: Rig, from_here: str) -> None:
    files = [new_file(b"x") for _ in range(7)]
    for file in files[:3]:
        await rig.note(file)
    await rig.note(*files[3:])
    cursor = from_here
    seen: list[str] = []
    while True:
        items, cursor = await read(rig, cursor, limit=2)
        seen += [item["file_id"] for item in items]
        if not items:
            break
    assert sorted(seen) == sorted(file.file_id for file in files)


async def test_a_change_is_withheld_until_earlier_transactions_end(rig: Rig, from_here: str) -> None:
    early, late = new_file(b"1"), new_file(b"2")
    async with rig.engine.connect() as slow:
        await upsert_files(slow, [FileEntry(early, "put")])
        await rig.note(late)
        assert await read(rig, from_here) == ([], from_here)
        await slow.commit()
    items, cursor = await read(rig, from_here)
    assert [item["file_id"] for item in items] == [early.file_id, late.file_id]
    async with rig.engine.connect() as undone:
        await upsert_files(undone, [FileEntry(new_file(b"3"), "put")])
        await undone.rollback()
    assert await read(rig, cursor) == ([], cursor)


async def test_a_reader_of_six_concurrent_writers_misses_nothing(rig: Rig, from_here: str) -> None:
    made: list[str] = []

    async def write() -> None:
        for _ in range(40):
            file = new_file(b"x")
            async with rig.engine.begin() as connection:
                await upsert_files(connection, [FileEntry(file, "put")])
                await asyncio.sleep(random.random() / 200)
            made.append(file.file_id)

    writers = [asyncio.create_task(write()) for _ in range(6)]
    cursor = from_here
    seen: list[str] = []
    while not all(writer.done() for writer in writers) or len(seen) < len(made):
        items, cursor = await read(rig, cursor, wait_s=1)
        seen += [item["file_id"] for item in items]
    await asyncio.gather(*writers)
    assert len(seen) == len(set(seen))
    assert set(seen) == set(made)


async def test_a_reader_may_wait_for_the_next_change(rig: Rig, from_here: str) -> None:
    waiting = asyncio.create_task(read(rig, from_here, wait_s=30))
    await asyncio.sleep(0.7)
    assert not waiting.done()
    file = new_file(b"1")
    await rig.note(file)
    items, _ = await asyncio.wait_for(waiting, 20)
    assert [item["file_id"] for item in items] == [file.file_id]
    assert await read(rig, from_here, wait_s=0)
    assert (await read(rig, (await read(rig, from_here))[1], wait_s=1))[0] == []


async def test_a_purged_or_future_cursor_is_refused(rig: Rig, from_here: str) -> None:
    await rig.note(new_file(b"1"))
    _, cursor = await read(rig, from_here)
    async with rig.engine.begin() as connection:
        place = decode_position(cursor)
        await connection.execute(text("DELETE FROM changes"))
        await connection.execute(text("UPDATE changes_purged SET txid = :txid, position = :position"), place._asdict())
    assert await read(rig, cursor) == ([], cursor)
    beyond = encode_position(Position(place.txid + 1_000_000, 1))
    for gone in (from_here, beyond):
        answer = await rig.client.get("/api/changes", params={"since": gone})
        assert (answer.status_code, answer.json()["code"]) == (410, "cursor_expired")
    assert (await rig.client.get("/api/changes")).json() == {"items": [], "next_cursor": cursor}


@pytest.mark.parametrize(
    "wrong",
    [
        {"since": "x"}, {"since": "WyJjaGFuZ2VzIiwxXQ"}, {"since": encode_position(Position(-1, 0))}, {"limit": "0"},
        {"limit": "1001"}, {"wait_s": "31"}, {"wait_s": "-1"}, {"wait_s": "1.5"}, {"tag": "a"},
    ],
)  # fmt: skip
async def test_a_wrong_parameter_is_named(rig: Rig, wrong: dict[str, str]) -> None:
    answer: httpx.Response = await rig.client.get("/api/changes", params=wrong)
    assert (answer.status_code, answer.json()["fields"]) == (422, list(wrong))
