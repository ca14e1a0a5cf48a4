"""Put, get, update, delete, listing and a restart, the same on every backend."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.store.delete import compensate, delete
from app.store.get import list_files, load_attributes, open_file
from app.store.store import Store
from app.store.update import RewriteOrder, patch, rewrite
from artstore.clock import uuid7
from artstore.contracts.files import Changes
from artstore.errors import Conflict, DigestMismatch, NotFound, TooLarge

from ..places import Place, opened_at
from ..support import RememberingCatalog, body_of, put_bytes

SIZES = [0, 1, 65_535, 65_536, 65_537, 12_000_000]


async def read(store: Store, file_id: str) -> bytes:
    opened = await open_file(store, file_id)
    pieces = []
    position = 0
    while piece := await opened.read(position, min(1 << 20, opened.attributes.size_bytes - position)):
        pieces.append(piece)
        position += len(piece)
    opened.close()
    return b"".join(pieces)


@pytest.mark.parametrize("size", SIZES)
async def test_a_put_file_can_be_read_also_after_a_restart(tmp_path: Path, place: Place, size: int) -> None:
    catalog = RememberingCatalog()
    content = os.urandom(size)
    async with opened_at(tmp_path / "root", place, catalog) as store:
        attributes = (await put_bytes(store, content)).attributes
        assert await read(store, attributes.file_id) == content
        assert set(catalog.rows) == {attributes.file_id}
        assert store.wal.open == {}
        assert os.listdir(store.files.paths.temps) == []
    async with opened_at(tmp_path / "root", place, catalog) as store:
        assert await read(store, attributes.file_id) == content
        assert (store.usage.files, store.usage.bytes_used) == (1, size)


@pytest.mark.parametrize("size", SIZES)
async def test_every_change_is_a_new_revision(tmp_path: Path, place: Place, size: int) -> None:
    catalog = RememberingCatalog()
    content = os.urandom(size)
    async with opened_at(tmp_path / "root", place, catalog) as store:
        file_id = (await put_bytes(store, b"first")).attributes.file_id
        assert (await patch(store, file_id, Changes(tags=["a"]), None)).revision == 2
        assert (await rewrite(store, RewriteOrder(file_id), body_of(content))).revision == 3
        assert await read(store, file_id) == content
        attributes, _ = await load_attributes(store, file_id)
        assert (attributes.tags, attributes.size_bytes) == (["a"], size)
        assert catalog.rows[file_id][0] == attributes
        assert (store.usage.files, store.usage.bytes_used) == (1, size)
        await delete(store, file_id)
        with pytest.raises(NotFound):
            await open_file(store, file_id)
        assert catalog.rows == {}
        assert (store.usage.files, store.usage.bytes_used) == (0, 0)
        assert store.wal.open == {}
        assert os.listdir(store.files.paths.temps) == []


async def test_a_saga_removes_only_the_file_that_it_put(tmp_path: Path, place: Place) -> None:
    catalog = RememberingCatalog()
    async with opened_at(tmp_path / "root", place, catalog) as store:
        file_id, saga_id = str(uuid7()), str(uuid7())
        await put_bytes(store, b"x" * 100_000, file_id=file_id, saga_id=saga_id)
        assert not (await put_bytes(store, b"x" * 100_000, file_id=file_id, saga_id=saga_id)).created
        with pytest.raises(Conflict):
            await put_bytes(store, b"another", file_id=file_id)
        with pytest.raises(Conflict):
            await compensate(store, file_id, str(uuid7()))
        await compensate(store, file_id, saga_id)
        with pytest.raises(NotFound):
            await load_attributes(store, file_id)
        assert catalog.rows == {}


@pytest.mark.parametrize("size", [10, 7_000_000])
async def test_a_refused_body_leaves_nothing(tmp_path: Path, place: Place, size: int) -> None:
    from app.store.put import PutOrder, put
    from app.store.receive import Body, Expected

    from ..support import chunks_of, new_file

    async with opened_at(tmp_path / "root", place) as store:
        wrong = PutOrder(str(uuid7()), new_file(), str(uuid7()), Expected(sha256=b"0" * 32))
        with pytest.raises(DigestMismatch):
            await put(store, wrong, body_of(os.urandom(size)))
        order = PutOrder(str(uuid7()), new_file(), str(uuid7()))
        with pytest.raises(TooLarge):
            await put(store, order, Body(chunks_of(os.urandom(size)), stated_bytes=None, max_bytes=size - 1))
        assert list(store.files.walk()) == []
        assert os.listdir(store.files.paths.temps) == []
        assert store.wal.open == {}


async def test_a_listing_goes_through_all_pages(tmp_path: Path, place: Place) -> None:
    async with opened_at(tmp_path / "root", place) as store:
        put = {(await put_bytes(store, b"x")).attributes.file_id for _ in range(7)}
        found: list[str] = []
        after: str | None = ""
        while after is not None:
            page, after = await store.in_thread(list_files, store, after, 3)
            found += [attributes.file_id for attributes in page]
        assert len(found) == 7
        assert set(found) == put
