"""Resumable uploads on both backends: continued after a restart, within the limits, and removed only by two clocks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from app.store import unfinished
from app.store.append import AppendOrder, append
from app.store.finish import complete
from app.store.get import load_attributes, open_file
from app.store.receive import Body
from app.store.store import Store
from app.store.unfinished import Upload, Uploads
from artstore.contracts.files import NewFile
from artstore.contracts.uploads import NewUpload
from artstore.errors import Conflict, ModeForbids, NotFound, StorageFull, TooManyUploads

from ..places import Place, opened_at
from ..support import RememberingCatalog, chunks_of, new_file

TTL_S = 3600.0
ACCOUNT = "a"


def loaded(store: Store) -> Uploads:
    uploads = Uploads(store, TTL_S)
    uploads.load()
    return uploads


async def begin(uploads: Uploads, length: int | None, account: str = ACCOUNT) -> Upload:
    return await uploads.create(account, NewUpload(new=new_file(), length=length))


def body(chunks: AsyncIterator[bytes], max_bytes: int) -> Body:
    return Body(chunks, stated_bytes=None, max_bytes=max_bytes)


async def send(uploads: Uploads, upload: Upload, content: bytes, length: int | None = None) -> None:
    order = AppendOrder(upload.record.offset, length)
    await append(uploads, upload, order, partial(body, chunks_of(content)))


def allow(_new: NewFile) -> None:
    """Every mode."""


def forbid(_new: NewFile) -> None:
    raise ModeForbids("closed")


async def finish(uploads: Uploads, upload: Upload) -> str:
    record = upload.record
    assert record.saga_id is not None
    result = await complete(uploads, upload, record.saga_id, allow)
    await uploads.settle(upload, record.saga_id, committed=True)
    return result.attributes.file_id


async def content_of(store: Store, file_id: str) -> bytes:
    opened = await open_file(store, file_id)
    try:
        return await opened.read(0, opened.attributes.size_bytes)
    finally:
        opened.close()


@pytest.mark.parametrize("size", [0, 1, 200_000])
async def test_an_upload_continues_after_each_restart(place: Place, tmp_path: Path, size: int) -> None:
    root, content, catalog = tmp_path / "root", os.urandom(size), RememberingCatalog()
    async with opened_at(root, place, catalog) as store:
        uploads = loaded(store)
        upload_id = (await begin(uploads, size)).id
        if size:
            await send(uploads, uploads.find(upload_id, ACCOUNT), content[: size // 2])
    async with opened_at(root, place, catalog) as store:
        uploads = loaded(store)
        upload = uploads.find(upload_id, ACCOUNT)
        assert upload.record.offset == size // 2
        if size:
            await send(uploads, upload, content[size // 2 :])
    async with opened_at(root, place, catalog) as store:
        uploads = loaded(store)
        file_id = await finish(uploads, uploads.find(upload_id, ACCOUNT))
        assert await content_of(store, file_id) == content
        attributes, _ = await load_attributes(store, file_id)
        assert attributes.checksum == f"sha256:{hashlib.sha256(content).hexdigest()}"
        assert store.space.staged_bytes == 0
    async with opened_at(root, place, catalog) as store:
        uploads = loaded(store)
        record = uploads.find(upload_id, ACCOUNT).record
        assert (record.committed, record.file_id, uploads.unfinished) == (True, file_id, 0)
        assert [path.name for path in (root / "uploads").iterdir()] == [f"{upload_id}.json"]
        with pytest.raises(NotFound):
            uploads.find(upload_id, "another account")


async def test_a_put_that_is_undone_keeps_the_bytes(place: Place, tmp_path: Path) -> None:
    content, catalog = os.urandom(100_000), RememberingCatalog()
    async with opened_at(tmp_path / "root", place, catalog) as store:
        uploads = loaded(store)
        upload = await begin(uploads, len(content))
        await send(uploads, upload, content)
        record = upload.record
        assert record.saga_id is not None
        with pytest.raises(ModeForbids):
            await complete(uploads, upload, record.saga_id, forbid)
        catalog.refuses.add(record.file_id or "")
        with pytest.raises(Exception, match="refuses the row"):
            await complete(uploads, upload, record.saga_id, allow)
        catalog.refuses.clear()
        await complete(uploads, upload, record.saga_id, allow)
        again = await complete(uploads, upload, record.saga_id, forbid)
        assert not again.created, "a put that was made may be committed in any mode"
        await uploads.settle(upload, record.saga_id, committed=False)
        assert upload.record.saga_id != record.saga_id
        assert upload.record.file_id != record.file_id
        with pytest.raises(Conflict):
            await complete(uploads, upload, record.saga_id, allow)
        assert await content_of(store, await finish(uploads, upload)) == content


async def test_missing_bytes_are_reserved_and_given_back(place: Place, tmp_path: Path) -> None:
    async with opened_at(tmp_path / "root", place) as store:
        uploads = loaded(store)
        too_much = store.space.available_bytes() + (16 << 30)
        with pytest.raises(StorageFull):
            await begin(uploads, too_much)
        assert uploads.unfinished == 0
        upload = await begin(uploads, 1 << 20)
        assert store.space.in_flight_bytes == 1 << 20
        await send(uploads, upload, bytes(1000))
        assert (store.space.in_flight_bytes, store.space.staged_bytes) == ((1 << 20) - 1000, 1000)
        upload.used_s -= unfinished.RESERVED_FOR_S + 1
        uploads.release_idle()
        assert store.space.in_flight_bytes == 0, "not for a client that is silent for an hour"
        await send(uploads, upload, b"x")
        assert store.space.in_flight_bytes == (1 << 20) - 1001
        await uploads.remove(upload)
        assert (store.space.in_flight_bytes, store.space.staged_bytes) == (0, 0)
        assert list((tmp_path / "root" / "uploads").iterdir()) == []


async def test_an_upload_expires_and_a_damaged_record_stays(place: Place, tmp_path: Path) -> None:
    async with opened_at(tmp_path / "root", place) as store:
        uploads = loaded(store)
        upload, kept = await begin(uploads, 10), await begin(uploads, 10)
        assert not uploads.is_any_due(datetime.now(UTC) + timedelta(seconds=TTL_S - 60))
        await uploads.expire(datetime.now(UTC) + timedelta(seconds=TTL_S - 60))
        assert uploads.unfinished == 2
        await uploads.remove(kept)
        await uploads.expire(datetime.now(UTC) + timedelta(seconds=TTL_S + 60))
        with pytest.raises(NotFound):
            uploads.find(upload.id, ACCOUNT)
        damaged = await begin(uploads, 10)
    record = tmp_path / "root" / "uploads" / f"{damaged.id}.json"
    record.write_bytes(b"{")
    (tmp_path / "root" / "uploads" / ".DS_Store").write_bytes(b"")
    async with opened_at(tmp_path / "root", place) as store:
        assert loaded(store).unfinished == 0
        assert store.findings.damaged == 1
        assert record.exists()


async def test_an_account_has_a_bounded_number_of_unfinished_uploads(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished, "MAX_PER_ACCOUNT", 2)
    monkeypatch.setattr(unfinished, "MAX_FINISHED", 2)
    async with opened_at(tmp_path / "root", place) as store:
        uploads = loaded(store)
        first, _ = await begin(uploads, 3), await begin(uploads, 3)
        with pytest.raises(TooManyUploads):
            await begin(uploads, 3)
        await begin(uploads, 3, "another")
        await send(uploads, first, b"abc")
        await finish(uploads, first)
        for _ in range(2):
            upload = await begin(uploads, 0)
            await finish(uploads, upload)
        with pytest.raises(NotFound):
            uploads.find(first.id, ACCOUNT)
