"""S3 is cut off in the middle of things, and comes back."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.store.backends.s3 import S3Backend
from app.store.backends.s3_claim import Claim, require_backend
from app.store.backends.s3_uploads import S3Settings
from app.store.delete import compensate, delete
from app.store.disk_health import DiskHealth
from app.store.get import load_attributes, open_file
from app.store.identity import RootRefused
from app.store.open import locked_root
from app.store.paths import Paths
from app.store.pending import settle_all
from app.store.put import PutOrder, put
from app.store.receive import Body
from app.store.store import Store
from app.store.update import RewriteOrder, patch, rewrite
from artstore.clock import uuid7
from artstore.contracts.files import Changes
from artstore.errors import ElementFailed, NotFound, Unavailable
from artstore.testing.services import S3Server

from .cutting import Way, way_to
from .places import Place, in_s3, on_disk, opened_at, s3_settings
from .support import MAX_BYTES, RememberingCatalog, body_of, new_file, put_bytes

SIZES = [100, 6_000_000]
NEW = os.urandom(6_000_000)


@pytest.fixture
def way(s3: S3Server) -> Iterator[Way]:
    with way_to(s3.ports["s3.port"]) as way:
        yield way


@pytest.fixture
def settings(s3: S3Server, way: Way) -> S3Settings:
    return replace(s3_settings(s3), endpoint_url=f"http://127.0.0.1:{way.port}", retry_for_s=1)


@pytest.fixture
def place(settings: S3Settings) -> Place:
    return in_s3(settings)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("how", ["open", "takes_changes"])
async def test_a_put_that_loses_s3_is_refused_and_undone_when_s3_is_back(
    tmp_path: Path, way: Way, place: Place, size: int, how: str
) -> None:
    catalog = RememberingCatalog()
    content = os.urandom(size)

    async def body() -> AsyncIterator[bytes]:
        yield content[: size // 2]
        setattr(way, how, False)
        yield content[size // 2 :]

    async with opened_at(tmp_path / "root", place, catalog) as store:
        order = PutOrder(str(uuid7()), new_file(), str(uuid7()))
        with pytest.raises(Unavailable):
            await put(store, order, Body(body(), stated_bytes=size, max_bytes=MAX_BYTES))
        assert set(store.pending) == {order.file_id}
        with pytest.raises(NotFound):
            await load_attributes(store, order.file_id)
        with pytest.raises(Unavailable):
            await put(store, order, body_of(content))
        with pytest.raises(Unavailable):
            await compensate(store, order.file_id, str(uuid7()))
        way.mend()
        await settle_all(store)
        check_nothing_is_left(store)
        assert list(store.files.walk()) == []
        assert catalog.rows == {}
        assert (await put(store, PutOrder(order.file_id, order.new, order.saga_id), body_of(content))).created
        assert (store.usage.files, store.usage.bytes_used) == (1, size)


async def test_changes_that_must_read_first_are_refused_without_s3(tmp_path: Path, way: Way, place: Place) -> None:
    async with opened_at(tmp_path / "root", place) as store:
        file_id = (await put_bytes(store, b"first")).attributes.file_id
        way.open = False
        for change in (patch_it(store, file_id), rewrite_it(store, file_id), delete(store, file_id)):
            with pytest.raises(Unavailable):
                await change
        with pytest.raises(Unavailable):
            await open_file(store, file_id)
        assert store.pending == {}
        way.mend()
        assert (await load_attributes(store, file_id))[0].revision == 1


@pytest.mark.parametrize("restarted", [False, True])
async def test_changes_decided_during_an_outage_of_s3_are_made_after_it(
    tmp_path: Path, way: Way, place: Place, settings: S3Settings, restarted: bool
) -> None:
    """Also by the next process: the log has it, and the start does not need S3."""
    catalog = RememberingCatalog()
    async with opened_at(tmp_path / "root", place, catalog) as store:
        file_ids = [(await put_bytes(store, b"first")).attributes.file_id for _ in range(3)]
        patched, rewritten, gone = file_ids
        way.takes_changes = False
        for change in (patch_it(store, patched), rewrite_it(store, rewritten), delete(store, gone)):
            with pytest.raises(Unavailable):
                await change
        assert set(store.pending) == set(file_ids)
        with pytest.raises(NotFound):
            await load_attributes(store, gone)
        opened = await open_file(store, rewritten)
        assert await opened.read(0, len(NEW)) == NEW  # decided, so it is what readers get, from the element's own disk
        opened.close()
        if not restarted:
            way.mend()
            await settle_all(store)
            await check_changed(store, catalog, *file_ids)
    if restarted:
        way.open = False
        async with opened_at(tmp_path / "root", lambda paths: S3Backend(paths, settings), catalog) as store:
            assert set(store.pending) == set(file_ids)
            claim = Claim(backend_of(store), store.files.paths, "se-01", take_over=False)
            with pytest.raises(Unavailable):
                await store.in_thread(claim.check, store.disk_health)
            way.mend()
            await store.in_thread(claim.check, store.disk_health)
            await settle_all(store)
            await check_changed(store, catalog, *file_ids)


async def test_calls_fail_at_once_after_two_missed_checks_of_s3(tmp_path: Path, way: Way, settings: S3Settings) -> None:
    async with locked_root(str(tmp_path / "root")) as paths:
        backend = S3Backend(paths, settings)
        claim = Claim(backend, paths, "se-01", take_over=False)
        claim.make()
        way.open = False
        for away in (False, True):
            with pytest.raises(Unavailable):
                claim.check(DiskHealth())
            assert backend.objects.away is away
        way.mend()
        with pytest.raises(Unavailable, match="S3 does not answer"):
            backend.find_attributes(str(uuid7()))
        claim.check(DiskHealth())
        assert backend.find_attributes(str(uuid7())) is None


async def test_a_second_root_can_only_take_over_the_prefix(tmp_path: Path, settings: S3Settings) -> None:
    async with locked_root(str(tmp_path / "first")) as first, locked_root(str(tmp_path / "second")) as second:
        old, new = S3Backend(first, settings), S3Backend(second, settings)
        old_claim = Claim(old, first, "se-01", take_over=False)
        old_claim.make()
        old_claim.check(DiskHealth())
        for element_id, take_over in (("se-01", False), ("se-02", False), ("se-02", True)):
            with pytest.raises(RootRefused):
                Claim(new, second, element_id, take_over=take_over).make()
            with pytest.raises(Unavailable):
                new.remove(str(uuid7()))
        Claim(new, second, "se-01", take_over=True).make()
        disk_health = DiskHealth()
        with pytest.raises(ElementFailed):
            old_claim.check(disk_health)
        assert disk_health.failure is not None


async def test_a_root_is_bound_to_its_bucket_and_prefix(tmp_path: Path, settings: S3Settings) -> None:
    async with locked_root(str(tmp_path / "root")) as paths:
        Claim(S3Backend(paths, settings), paths, "se-01", take_over=False).make()
        other = replace(settings, prefix="another")
        with pytest.raises(RootRefused):
            Claim(S3Backend(paths, other), paths, "se-01", take_over=True)


async def test_a_root_keeps_its_backend(tmp_path: Path, settings: S3Settings) -> None:
    async with opened_at(tmp_path / "disk", on_disk) as store:
        await put_bytes(store, b"here")
        require_backend(store.files.paths, s3=False)
        with pytest.raises(RootRefused):
            require_backend(store.files.paths, s3=True)
    async with opened_at(tmp_path / "bucket", in_s3(settings)) as store:
        require_backend(store.files.paths, s3=True)
        with pytest.raises(RootRefused):
            require_backend(store.files.paths, s3=False)


async def test_unfinished_uploads_are_found_and_aborted(tmp_path: Path, way: Way, settings: S3Settings) -> None:
    async with locked_root(str(tmp_path / "root")) as paths:
        backend = S3Backend(paths, settings)
        clock = Claim(backend, paths, "se-01", take_over=False)
        clock.make()
        file_id = begin_and_break_off(backend, way, paths)
        [upload] = backend.objects.unfinished_uploads("files/")
        assert upload.key.endswith(file_id)
        assert backend.abort_unfinished(upload.begun_at, {}) == 0  # not old enough
        after = upload.begun_at.replace(year=upload.begun_at.year + 1)
        assert backend.abort_unfinished(after, {file_id}) == 0  # an operation works on the file
        assert backend.abort_unfinished(after, {}) == 1
        assert backend.objects.unfinished_uploads("files/") == []
        file_id = begin_and_break_off(backend, way, paths)
        backend.undo_put(file_id, "none")
        assert backend.objects.unfinished_uploads("files/") == []


def begin_and_break_off(backend: S3Backend, way: Way, paths: Paths) -> str:
    """The upload has one part when the connection is cut, so that it can neither be completed nor aborted."""
    file_id = str(uuid7())
    temp = backend.temps.new(file_id)
    backend.temps.write_data(temp, NEW)
    way.changes_left = 2
    with pytest.raises(Unavailable):
        backend.publish(file_id, temp, b"{}")
    way.mend()
    backend.temps.drop(temp)
    return file_id


async def patch_it(store: Store, file_id: str) -> None:
    await patch(store, file_id, Changes(tags=["later"]), None)


async def rewrite_it(store: Store, file_id: str) -> None:
    await rewrite(store, RewriteOrder(file_id), body_of(NEW))


async def check_changed(store: Store, catalog: RememberingCatalog, patched: str, rewritten: str, gone: str) -> None:
    check_nothing_is_left(store)
    attributes, _ = await load_attributes(store, patched)
    assert (attributes.revision, attributes.tags) == (2, ["later"])
    opened = await open_file(store, rewritten)
    assert opened.attributes.revision == 2
    assert await store.in_thread(opened.data.read, 0, len(NEW)) == NEW
    opened.close()
    with pytest.raises(NotFound):
        await load_attributes(store, gone)
    assert {file_id: row[0].revision for file_id, row in catalog.rows.items()} == {patched: 2, rewritten: 2}


def check_nothing_is_left(store: Store) -> None:
    assert store.pending == {}
    assert store.unsettled == {}
    assert store.swapping == {}
    assert store.wal.open == {}
    assert os.listdir(store.files.paths.temps) == []


def backend_of(store: Store) -> S3Backend:
    assert isinstance(store.files, S3Backend)
    return store.files
