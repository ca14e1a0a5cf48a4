"""A file that a person restores into its folder stays there, whatever the log deleted or changed before.

Each crash is real: the store runs in a child process that ends without closing it, and is opened again on the same root.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from app.store.delete import delete
from app.store.paths import Paths
from app.store.store import Store
from app.store.update import RewriteOrder, patch, rewrite
from artstore.contracts.files import Changes, decode

from .support import body_of, files_on_disk, opened, put_bytes

SIZES = [900, 100_000]

Step = Callable[[Store, str, Path], Awaitable[object]]


async def deleted(store: Store, file_id: str, _backup: Path) -> None:
    await delete(store, file_id)


async def replaced(store: Store, file_id: str, _backup: Path) -> None:
    await rewrite(store, RewriteOrder(file_id), body_of(b"new"))


async def patched(store: Store, file_id: str, _backup: Path) -> None:
    await patch(store, file_id, Changes(tags=["new"]), None)


def names_of(root: Path, file_id: str) -> list[Path]:
    paths = Paths(str(root))
    return [Path(paths.data(file_id)), Path(paths.attributes(file_id))]


def put_back(root: Path, file_id: str, backup: Path) -> None:
    """As rsync does: beside, then renamed."""
    for path in names_of(root, file_id):
        shutil.copy2(backup / path.name, f"{path}.tmp")
        os.rename(f"{path}.tmp", path)


def crash_after(root: Path, size: int, *steps: Step) -> str:
    """The id of the file that the steps were made with, in a process that is gone."""

    async def run() -> None:
        async with opened(root) as store:
            file_id = (await put_bytes(store, b"F" * size)).attributes.file_id
            backup = root.with_name("backup")
            backup.mkdir()
            for path in names_of(root, file_id):
                shutil.copy2(path, backup)
            for step in steps:
                await step(store, file_id, backup)
            (root.with_name("id")).write_text(file_id)
            await store.wal.rotate()
            os._exit(0)

    child = os.fork()
    if child == 0:
        try:
            asyncio.run(run())
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return root.with_name("id").read_text()


async def put_back_now(store: Store, file_id: str, backup: Path) -> None:
    put_back(Path(store.files.paths.root), file_id, backup)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("change", [deleted, replaced, patched])
@pytest.mark.parametrize("when", ["before the crash", "after the crash"])
def test_a_file_from_a_backup_outlives_a_crash(tmp_path: Path, size: int, change: Step, when: str) -> None:
    root = tmp_path / "root"
    steps = [change, put_back_now] if when == "before the crash" else [change]
    file_id = crash_after(root, size, *steps)
    if when == "after the crash":
        put_back(root, file_id, tmp_path / "backup")

    async def recover() -> None:
        for _ in range(2):
            async with opened(root) as store:
                assert files_on_disk(root) == {file_id: b"F" * size}
                attributes = names_of(root, file_id)[1]
                assert attributes.read_bytes() == (tmp_path / "backup" / attributes.name).read_bytes()
                assert store.wal.open == {}

    asyncio.run(recover())


@pytest.mark.parametrize("size", SIZES)
def test_a_patch_of_a_restored_file_keeps_its_bytes(tmp_path: Path, size: int) -> None:
    root = tmp_path / "root"
    file_id = crash_after(root, size, replaced, put_back_now, patched)

    async def recover() -> None:
        async with opened(root):
            assert files_on_disk(root) == {file_id: b"F" * size}
            assert decode(names_of(root, file_id)[1].read_bytes()).tags == ["new"]

    asyncio.run(recover())


@pytest.mark.parametrize("size", SIZES)
def test_a_delete_of_a_restored_file_is_final(tmp_path: Path, size: int) -> None:
    root = tmp_path / "root"
    crash_after(root, size, deleted, put_back_now, deleted)

    async def recover() -> None:
        async with opened(root):
            assert files_on_disk(root) == {}

    asyncio.run(recover())


def test_in_a_copy_of_the_root_the_log_decides(tmp_path: Path) -> None:
    """A disk that died was copied file by file: the copy has other inodes, and a delete may have been lost on the way."""
    root = tmp_path / "root"
    file_id = crash_after(root, 900, deleted)
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    put_back(copy, file_id, tmp_path / "backup")

    async def recover() -> None:
        async with opened(copy):
            assert files_on_disk(copy) == {}

    asyncio.run(recover())
