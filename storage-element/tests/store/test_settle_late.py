"""Puts whose row follows behind the answer: in the end the catalog says what the disk says, whatever happens between."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from app.store.checkpoint import describe
from app.store.delete import compensate, delete
from app.store.pending import settle_all
from app.store.put import PutOrder, PutResult, put
from app.store.settle_late import settle_late_rows
from app.store.store import Store
from app.store.update import patch
from app.store.wal.log import UNCONFIRMED_BYTES
from app.store.wal.records import encode_record
from artstore.clock import uuid7
from artstore.contracts.files import Attributes, Changes
from artstore.errors import Unavailable

from .support import RememberingCatalog, body_of, check_settled, new_file, opened

CONTENT = b"content"


async def put_late(store: Store, *, saga_id: str | None = None, content: bytes = CONTENT) -> PutResult:
    order = PutOrder(str(uuid7()), new_file(), saga_id or str(uuid7()), settle_late=True)
    return await put(store, order, body_of(content))


def commit(catalog: RememberingCatalog, attributes: Attributes) -> None:
    """As admin does it: the commit writes the whole row."""
    catalog.rows[attributes.file_id] = (attributes, None)


async def test_a_row_that_the_commit_has_written_is_not_written_again(tmp_path: Path) -> None:
    catalog = RememberingCatalog()
    async with opened(tmp_path, catalog) as store:
        results = [await put_late(store) for _ in range(3)]
        assert catalog.rows == {}
        for result in results:
            commit(catalog, result.attributes)
        await settle_late_rows(store)
        assert catalog.events == []
        assert set(check_settled(tmp_path, store, catalog).values()) == {CONTENT}
        assert len(store.unconfirmed) == 3


async def test_a_file_without_a_commit_gets_its_pending_row(tmp_path: Path) -> None:
    catalog, saga_id = RememberingCatalog(), str(uuid7())
    async with opened(tmp_path, catalog) as store:
        result = await put_late(store, saga_id=saga_id)
        await asyncio.wait_for(_until_settled(store), 120)
        assert catalog.rows == {result.attributes.file_id: (result.attributes, saga_id)}
        check_settled(tmp_path, store, catalog)


async def _until_settled(store: Store) -> None:
    while store.unsettled:
        await asyncio.sleep(0.01)


async def test_a_stop_settles_what_waits(tmp_path: Path) -> None:
    catalog = RememberingCatalog()
    async with opened(tmp_path, catalog) as store:
        await put_late(store)
    assert len(catalog.rows) == 1


async def test_a_large_file_has_its_row_before_the_answer(tmp_path: Path) -> None:
    catalog = RememberingCatalog()
    async with opened(tmp_path, catalog) as store:
        result = await put_late(store, content=bytes(100_000))
        assert set(catalog.rows) == {result.attributes.file_id}


async def test_a_compensation_before_the_row_leaves_nothing(tmp_path: Path) -> None:
    catalog, saga_id = RememberingCatalog(), str(uuid7())
    async with opened(tmp_path, catalog) as store:
        result = await put_late(store, saga_id=saga_id)
        await compensate(store, result.attributes.file_id, saga_id)
        await settle_late_rows(store)
        assert check_settled(tmp_path, store, catalog) == {}


async def test_changes_before_the_row_are_in_it(tmp_path: Path) -> None:
    catalog = RememberingCatalog()
    async with opened(tmp_path, catalog) as store:
        changed, gone = await put_late(store), await put_late(store)
        await patch(store, changed.attributes.file_id, Changes(tags=["changed"]), None)
        await delete(store, gone.attributes.file_id)
        await settle_late_rows(store)
        assert list(check_settled(tmp_path, store, catalog)) == [changed.attributes.file_id]
        assert catalog.rows[changed.attributes.file_id][0].tags == ["changed"]


async def test_an_outage_of_the_catalog_leaves_the_row_to_later_and_refuses_the_next_puts(tmp_path: Path) -> None:
    catalog = RememberingCatalog()
    async with opened(tmp_path, catalog) as store:
        result = await put_late(store)
        catalog.away = True
        await settle_late_rows(store)
        assert (set(store.unsettled), store.late) == ({result.attributes.file_id}, {})
        with pytest.raises(Unavailable):
            await put_late(store)
        catalog.away = False
        await settle_all(store)
        assert set(check_settled(tmp_path, store, catalog)) == {result.attributes.file_id}


async def test_no_more_rows_wait_than_a_checkpoint_may_carry(tmp_path: Path) -> None:
    catalog = RememberingCatalog()
    async with opened(tmp_path, catalog) as store:
        while len(store.late) == len(store.unconfirmed):
            await asyncio.gather(*(put_late(store) for _ in range(64)))
        checkpoint = describe(store, store.wal.boundary + (1 << 20), None)
        assert len(checkpoint.still_open) == len(store.late)
        assert len(encode_record(checkpoint)) <= store.wal.max_late_bytes + len(store.unconfirmed) * UNCONFIRMED_BYTES


async def test_a_row_is_not_written_while_its_commit_may_come(tmp_path: Path) -> None:
    catalog = RememberingCatalog()
    async with opened(tmp_path, catalog) as store:
        committed, other = await put_late(store), await put_late(store)
        await settle_late_rows(store, write_before_s=0.0)
        assert (set(store.late), catalog.rows) == ({committed.attributes.file_id, other.attributes.file_id}, {})
        commit(catalog, committed.attributes)
        await settle_late_rows(store, write_before_s=0.0)
        assert set(store.late) == {other.attributes.file_id}
        await settle_late_rows(store)
        assert (store.late, store.late_bytes) == ({}, 0)
        assert [event[0] for event in catalog.events] == [other.attributes.file_id]
        check_settled(tmp_path, store, catalog)
