"""A file that the disk does not give costs that file, and nothing else."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from app.store.backends import local, local_scan
from app.store.delete import compensate, delete
from app.store.disk_health import FileUnreadable
from app.store.get import list_files, load_attributes, open_file
from app.store.pending import settle_all
from app.store.put import PutOrder, put
from app.store.store import Store
from app.store.update import RewriteOrder, patch, rewrite
from artstore.clock import uuid7
from artstore.contracts.files import Changes
from artstore.errors import FileDamaged, Unavailable

from .bad_sectors import BadSectors
from .support import RememberingCatalog, body_of, files_on_disk, new_file, opened, put_bytes

SIZES = [400, 100_000]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> BadSectors:
    disk = BadSectors()
    monkeypatch.setattr(local, "os", disk)
    monkeypatch.setattr(local_scan, "os", disk)
    return disk


async def takes_writes(store: Store) -> bool:
    file_id = (await put_bytes(store, b"another")).attributes.file_id
    await patch(store, file_id, Changes(tags=["a"]), None)
    await delete(store, file_id)
    return store.disk_health.failure is None


@pytest.mark.parametrize("number", [errno.EIO, errno.ENXIO, errno.ENODEV, errno.EACCES, errno.ESTALE])
@pytest.mark.parametrize("size", SIZES)
async def test_unreadable_data_leaves_the_element_writable(
    tmp_path: Path, disk: BadSectors, size: int, number: int
) -> None:
    async with opened(tmp_path) as store:
        file_id = (await put_bytes(store, b"x" * size)).attributes.file_id
        data = store.files.paths.data(file_id)
        disk.bad[data] = number
        before = await open_file(store, file_id)
        with pytest.raises(FileDamaged) as refused:
            await before.read(0, size)
        before.close()
        assert refused.value.fields["reason"] == "unreadable"
        disk.opens[data] = number
        with pytest.raises(FileDamaged) as refused:
            await open_file(store, file_id)
        assert (refused.value.code, refused.value.fields["reason"]) == ("file_damaged", "unreadable")
        assert (await load_attributes(store, file_id))[0].size_bytes == size
        await patch(store, file_id, Changes(tags=["a"]), None)
        with pytest.raises(FileDamaged):
            await rewrite(store, RewriteOrder(file_id), body_of(b"new"))
        assert await takes_writes(store)
        assert store.findings.unreadable >= 2
        disk.bad.clear()
        disk.opens.clear()
        with_it = await open_file(store, file_id)
        assert await with_it.read(0, size) == b"x" * size
        with_it.close()


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
async def test_unreadable_attributes_leave_the_element_writable(tmp_path: Path, disk: BadSectors, number: int) -> None:
    saga_id = str(uuid7())
    async with opened(tmp_path) as store:
        sound = (await put_bytes(store, b"sound")).attributes.file_id
        bad = (await put_bytes(store, b"x" * 300, saga_id=saga_id)).attributes.file_id
        disk.bad[store.files.paths.attributes(bad)] = number
        for ask in (
            load_attributes(store, bad),
            open_file(store, bad),
            patch(store, bad, Changes(tags=["a"]), None),
            rewrite(store, RewriteOrder(bad), body_of(b"new")),
            put(store, PutOrder(bad, new_file(), str(uuid7())), body_of(b"other")),
            delete(store, bad, 1),
        ):
            with pytest.raises(FileDamaged):
                await ask
        found, _ = list_files(store, "", 100)
        assert [one.file_id for one in found] == [sound]
        assert await takes_writes(store)
        await compensate(store, bad, saga_id)
        assert set(files_on_disk(tmp_path)) == {sound}


async def test_an_unlistable_folder_hides_no_other(tmp_path: Path, disk: BadSectors) -> None:
    async with opened(tmp_path) as store:
        file_ids = {(await put_bytes(store, b"x")).attributes.file_id for _ in range(5)}
        bad = sorted(file_ids)[2]
        disk.bad[store.files.paths.folder(bad)] = errno.EIO
        found, _ = list_files(store, "", 100)
        seen = {one.file_id for first in {file_id[-4:-2] for file_id in file_ids} for one in store.files.survey(first)}
        assert {one.file_id for one in found} == seen == file_ids - {bad}
        assert await takes_writes(store)


async def test_too_many_open_files_are_not_damage(tmp_path: Path, disk: BadSectors) -> None:
    async with opened(tmp_path) as store:
        file_id = (await put_bytes(store, b"x")).attributes.file_id
        disk.opens[store.files.paths.data(file_id)] = errno.EMFILE
        with pytest.raises(Unavailable):
            await open_file(store, file_id)
        assert store.findings.unreadable == 0


async def test_recovery_and_settling_skip_unreadable_files(tmp_path: Path, disk: BadSectors) -> None:
    """After a crash: one whose put the log has, one that was deleted, and others behind them that wait for the catalog."""
    root, crashed, catalog = tmp_path / "root", tmp_path / "crashed", RememberingCatalog()
    async with opened(root, catalog) as store:
        large = (await put_bytes(store, b"L" * 100_000)).attributes.file_id
        small, other = [(await put_bytes(store, b"x" * 300)).attributes.file_id for _ in range(2)]
        catalog.away = True
        for file_id in (large, small, other):
            await patch(store, file_id, Changes(tags=["late"]), None)
        shutil.copytree(root, crashed)
    catalog.away = False
    for path in (Path(f"{crashed}/files/{large[-4:-2]}/{large[-2:]}/{large}"),):
        disk.bad[str(path)] = disk.bad[f"{path}.attr.json"] = errno.EIO
    async with opened(crashed, catalog) as store:
        assert {catalog.rows[file_id][0].revision for file_id in (small, other)} == {2}
        assert set(store.unsettled) <= {large}
        assert await takes_writes(store)
        disk.bad.clear()
        await settle_all(store)
        assert catalog.rows[large][0].revision == 2
        assert set(files_on_disk(crashed)) == {large, small, other}


async def test_a_row_that_the_catalog_refuses_delays_no_other(tmp_path: Path) -> None:
    catalog = RememberingCatalog()
    async with opened(tmp_path, catalog) as store:
        bad, good = [(await put_bytes(store, b"x" * 300)).attributes.file_id for _ in range(2)]
        catalog.away = True
        for file_id in (bad, good):
            await patch(store, file_id, Changes(tags=["late"]), None)
        catalog.away, catalog.refuses = False, {bad}
        await settle_all(store)
        assert catalog.rows[good][0].revision == 2
        assert set(store.unsettled) == {bad}
        catalog.refuses = set()
        await settle_all(store)
        assert store.unsettled == {}


async def test_a_named_pipe_under_a_files_name_blocks_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        for path_of in (store.files.paths.attributes, store.files.paths.data):
            file_id = (await put_bytes(store, b"x")).attributes.file_id
            os.unlink(path_of(file_id))
            os.mkfifo(path_of(file_id))
            with pytest.raises(FileDamaged):
                await open_file(store, file_id)
        list_files(store, "", 100)
        assert await takes_writes(store)


async def test_a_name_that_cannot_be_removed_fails_alone(tmp_path: Path) -> None:
    """Folders under the names of files: the delete is refused, or what is left is an orphan; nothing is decided for good."""
    root, catalog = tmp_path / "root", RememberingCatalog()
    async with opened(root, catalog) as store:
        bare, bad = [(await put_bytes(store, b"x" * 300)).attributes.file_id for _ in range(2)]
        paths = store.files.paths
        os.unlink(paths.attributes(bare))
        os.mkdir(paths.attributes(bare))
        os.unlink(paths.data(bad))
        os.mkdir(paths.data(bad))
        with pytest.raises(FileDamaged) as refused:
            await delete(store, bare)
        assert refused.value.fields["reason"] == "refused"
        await delete(store, bad)
        assert await takes_writes(store)
        assert store.wal.open == {}
        (root / "tmp" / "@eaDir").mkdir()
        (root / "wal" / "._00000001.wal").write_bytes(bytes(4096))
        shutil.copytree(root, tmp_path / "crashed")
    async with opened(tmp_path / "crashed", catalog) as store:
        assert await takes_writes(store)
        assert (tmp_path / "crashed" / "wal" / "._00000001.wal").read_bytes() == bytes(4096)


def test_unreadable_is_the_error_code_file_damaged() -> None:
    assert FileUnreadable.code == FileDamaged.code == "file_damaged"
