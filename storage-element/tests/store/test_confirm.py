"""Confirmed files stay confirmed, and only the element's own memory lets a compensation remove a file."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from app.store.checkpoint import checkpoint
from app.store.delete import compensate, delete
from app.store.get import load_attributes
from app.store.put import PutOrder, put
from app.store.store import Store
from app.store.wal.records import Kind, decode_record
from app.store.wal.replay import fold
from app.store.wal.segment import Frame, SegmentRead
from artstore.clock import uuid7
from artstore.errors import Conflict, NotFound

from .support import RememberingCatalog, body_of, new_file, opened, put_bytes

SIZES = [300, 100_000]
"""A file that rides in the log, and one that syncs itself."""


async def written(store: Store) -> None:
    """The log has all that was noted until now."""
    await store.wal.rotate()


def crashed(root: Path, name: str = "crashed") -> Path:
    """As kill -9 leaves it: all that was written, nothing closed."""
    copy = root.with_name(name)
    shutil.copytree(root, copy)
    return copy


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("checkpointed", ["before", "after", "never"])
async def test_confirmations_survive_a_crash(tmp_path: Path, size: int, checkpointed: str) -> None:
    root, saga_id = tmp_path / "root", str(uuid7())
    async with opened(root) as store:
        file_id = (await put_bytes(store, b"x" * size, saga_id=saga_id)).attributes.file_id
        open_one = (await put_bytes(store, b"y" * size, saga_id=saga_id)).attributes.file_id
        if checkpointed == "before":
            await checkpoint(store, rotate=True)
        store.confirm([file_id])
        if checkpointed == "after":
            await checkpoint(store, rotate=True)
        await written(store)
        copy = crashed(root)
    async with opened(copy) as store:
        assert set(store.unconfirmed) == {open_one}
        with pytest.raises(Conflict) as refused:
            await compensate(store, file_id, saga_id)
        assert refused.value.fields["reason"] == "confirmed"
        await compensate(store, open_one, saga_id)
        await load_attributes(store, file_id)
        with pytest.raises(NotFound):
            await load_attributes(store, open_one)


async def test_a_confirmation_covers_only_the_earlier_put(tmp_path: Path) -> None:
    root, first, second = tmp_path / "root", str(uuid7()), str(uuid7())
    async with opened(root) as store:
        file_id = (await put_bytes(store, b"first", saga_id=first)).attributes.file_id
        store.confirm([file_id])
        await delete(store, file_id)
        await put(store, PutOrder(file_id, new_file(), second), body_of(b"second"))
        await written(store)
        copy = crashed(root)
    async with opened(copy) as store:
        assert store.unconfirmed[file_id].saga_id == second


async def test_an_unsettled_put_stays_confirmed_over_a_checkpoint(tmp_path: Path) -> None:
    """After a crash its intent is open until the catalog is back; a rebuild may confirm it before."""
    root, catalog = tmp_path / "root", RememberingCatalog()
    async with opened(root, catalog) as store:
        file_id = (await put_bytes(store, b"x" * 300)).attributes.file_id
        copy = crashed(root)
    catalog.away = True
    async with opened(copy, catalog) as store:
        assert set(store.unsettled) == {file_id}
        store.confirm([file_id])
        await checkpoint(store, rotate=True)
        again = crashed(copy, "again")
    async with opened(again, catalog) as store:
        assert file_id not in store.unconfirmed


@pytest.mark.parametrize("row", ["pending", "available", "absent"])
async def test_the_catalog_does_not_decide_about_a_compensation(tmp_path: Path, row: str) -> None:
    """A restored database shows an acknowledged upload as pending, or an open one as available."""
    catalog, saga_id = RememberingCatalog(), str(uuid7())
    async with opened(tmp_path, catalog) as store:
        kept, removed = [(await put_bytes(store, b"x" * 300, saga_id=saga_id)).attributes.file_id for _ in range(2)]
        store.confirm([kept])
        for file_id in (kept, removed):
            attributes, _ = catalog.rows.pop(file_id)
            if row != "absent":
                catalog.rows[file_id] = (attributes, saga_id if row == "pending" else None)
        with pytest.raises(Conflict):
            await compensate(store, kept, saga_id)
        with pytest.raises(Conflict):
            await compensate(store, removed, str(uuid7()))
        await compensate(store, removed, saga_id)
        await load_attributes(store, kept)
        with pytest.raises(NotFound):
            await load_attributes(store, removed)


async def test_many_confirmations_fit_into_small_segments(tmp_path: Path) -> None:
    root = tmp_path / "root"
    async with opened(root, segment_bytes=64 << 10) as store:
        file_ids = [(await put_bytes(store, b"x")).attributes.file_id for _ in range(700)]
        store.confirm(file_ids)
        await written(store)
        copy = crashed(root)
    async with opened(copy, segment_bytes=64 << 10) as store:
        assert store.unconfirmed == {}


def test_a_log_of_the_previous_version_is_read() -> None:
    """Carried intents without `confirmed`, no Confirmed record."""
    carried = [7, [1, Kind.PUT_SMALL, "file", "saga", b"{}", "", 1], False, None]
    old = msgspec.msgpack.encode([3, 9, [carried], {"file": ["saga", 1.0]}, 1, 2, True])
    frame = Frame(10, decode_record(old), memoryview(b""), 4096)
    replay = fold([SegmentRead(1, 9, [frame])], 0.0)
    assert set(replay.unconfirmed) == {"file"}
    assert not replay.unresolved[0].confirmed
