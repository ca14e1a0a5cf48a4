"""A user's work with files: upload, find, read, change, delete."""

from __future__ import annotations

import hashlib
import io
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import artstore_client as artstore
from artstore_client import Client

MIB = 1 << 20


async def pieces_of(content: bytes, size: int = 70_000) -> AsyncIterator[bytes]:
    for begin in range(0, len(content), size):
        yield content[begin : begin + size]


async def test_a_file_keeps_its_bytes_and_attributes(store: Client, tmp_path: Path) -> None:
    path = tmp_path / "Договор №5.pdf"
    path.write_bytes(os.urandom(300_000))
    seen: list[tuple[int, int | None]] = []
    record = await store.upload(
        path, tags=["contract", "a,b"], metadata={"number": "5", "n": 5}, progress=lambda *at: seen.append(at)
    )
    assert (record.filename, record.content_type, record.tags) == (path.name, "application/pdf", ("contract", "a,b"))
    assert record.metadata == {"number": "5", "n": 5}
    assert record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (seen[0], seen[-1]) == ((0, 300_000), (300_000, 300_000))
    assert await store.info(record.file_id) == record
    copy = await store.download(record.file_id, tmp_path / "copy")
    assert copy.read_bytes() == path.read_bytes()
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, "copy"])


@pytest.mark.parametrize("size", [0, 1, 3 * MIB])
async def test_each_kind_of_content_is_stored_whole(store: Client, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(content)
    positioned = io.BytesIO(b"before" + content)
    positioned.seek(6)
    with path.open("rb") as file:
        for given in (content, bytearray(content), path, str(path), file, positioned, pieces_of(content)):
            record = await store.upload(given, retention="temporary")
            async with store.open(record.file_id) as stored:
                assert await stored.read() == content
                assert stored.size_bytes == size


async def test_a_range_is_read_alone(store: Client) -> None:
    content = os.urandom(100_000)
    record = await store.upload(content)
    async with store.open(record.file_id, range=(10, 20)) as part:
        assert await part.read() == content[10:20]
        assert (part.start, part.stop, part.size_bytes) == (10, 20, 100_000)
    async with store.open(record.file_id, range=(99_990, None)) as part:
        assert await part.read() == content[99_990:]
    with pytest.raises(artstore.RangeNotSatisfiable):
        async with store.open(record.file_id, range=(100_000, None)):
            pass


async def test_a_temporary_file_is_changed_and_deleted(store: Client) -> None:
    record = await store.upload(b"one", filename="a.txt", retention="temporary", ttl_days=3)
    changed = await store.update(record.file_id, revision=1, filename="b.txt", tags=["x"], metadata={"k": None})
    assert (changed.revision, changed.filename, changed.tags, changed.metadata) == (2, "b.txt", ("x",), {"k": None})
    with pytest.raises(artstore.RevisionMismatch):
        await store.update(record.file_id, revision=1, filename="c.txt")
    replaced = await store.replace(record.file_id, b"two", revision=2)
    assert (replaced.size_bytes, replaced.filename, replaced.revision) == (3, "b.txt", 3)
    await store.delete(record.file_id)
    with pytest.raises(artstore.NotFound):
        await store.info(record.file_id)


async def test_a_temporary_file_becomes_permanent_before_update_returns(store: Client) -> None:
    record = await store.upload(b"kept", retention="temporary")
    kept = await store.update(record.file_id, retention="permanent")
    assert (kept.retention, kept.expires_at) == ("permanent", None)
    with pytest.raises(artstore.ModeForbids) as refused:
        await store.delete(record.file_id)
    assert (refused.value.status, refused.value.code) == (409, "mode_forbids")
    assert refused.value.request_id


async def test_an_id_of_the_client_is_used_once(store: Client) -> None:
    file_id = str(uuid.uuid4())
    record = await store.upload(pieces_of(b"stream"), file_id=file_id, filename="x")
    assert record.file_id == file_id
    with pytest.raises(artstore.RevisionMismatch):
        await store.upload(b"other", file_id=file_id)


async def test_the_same_key_makes_one_file(store: Client) -> None:
    key = uuid.uuid4().hex
    first = await store.upload(b"content", idempotency_key=key)
    assert await store.upload(b"content", idempotency_key=key) == first
    with pytest.raises(artstore.IdempotencyKeyReused):
        await store.upload(b"other content", idempotency_key=key)


async def test_files_are_found_across_pages(store: Client) -> None:
    mark = uuid.uuid4().hex
    uploads = [
        artstore.Upload(content=b"%d" % n, filename=f"{n}.txt", tags=[mark], metadata={"n": n}) for n in range(7)
    ]
    stored = await store.upload_batch(uploads)
    assert [record.filename for record in stored if isinstance(record, artstore.FileRecord)] == [
        f"{n}.txt" for n in range(7)
    ]
    names = [record.filename async for record in store.files(tags=[mark], sort="filename")]
    assert names == [f"{n}.txt" for n in range(7)]
    assert len(await store.files(tags=[mark], limit=3).all()) == 3
    assert [record.filename async for record in store.files(tags=[mark], metadata={"n": 5})] == ["5.txt"]
    assert await store.count(tags=[mark]) == 7
    assert await store.count(tags=[mark], filename="6") == 1


async def test_a_refused_file_of_a_batch_does_not_spoil_the_others(store: Client) -> None:
    uploads = [artstore.Upload(content=b"good"), artstore.Upload(content=b"bad", filename="../bad")]
    good, bad = await store.upload_batch(uploads)
    assert isinstance(good, artstore.FileRecord)
    assert isinstance(bad, artstore.InvalidFields)
    assert "filename" in bad.fields["fields"]


async def test_changes_are_followed_from_a_cursor(store: Client) -> None:
    changes = store.changes(wait_s=0)
    async for _ in changes:
        pass
    record = await store.upload(b"new", retention="temporary")
    await store.update(record.file_id, tags=["t"])
    followed = store.changes(since=changes.cursor, wait_s=30)
    seen: list[str] = []
    async for change in followed:
        if change.file_id == record.file_id:
            seen.append(change.change)
            assert change.file is not None
        if len(seen) == 2:
            break
    assert seen == ["created", "updated"]


async def test_a_link_reads_without_a_token(store: Client) -> None:
    record = await store.upload(b"linked")
    link = await store.link(record.file_id, ttl_s=60, disposition="inline")
    assert "/api/links/" in link.url
    assert link.expires_at.tzinfo is not None


async def test_a_large_file_is_uploaded_in_parts(connect, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "large.bin"
    path.write_bytes(os.urandom(10 * MIB + 5))
    async with connect(resumable_from_bytes=MIB) as store:
        for given in (path, pieces_of(path.read_bytes())):
            record = await store.upload(
                given, filename="large.bin", tags=["t"], metadata={"k": "é"}, retention="temporary"
            )
            assert (record.size_bytes, record.tags, record.metadata) == (10 * MIB + 5, ("t",), {"k": "é"})
            async with store.open(record.file_id) as stored:
                assert await stored.read() == path.read_bytes()


async def test_long_attributes_are_stored(store: Client) -> None:
    metadata = {"text": "Ж" * 1500}
    record = await store.upload(b"x", metadata=metadata, retention="temporary")
    assert record.metadata == metadata
    form = await store.upload(b"x", content_type="multipart/form-data; boundary=b", retention="temporary")
    assert form.content_type == "multipart/form-data; boundary=b"
