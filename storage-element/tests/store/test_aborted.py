"""A put that was answered with an error never comes back, whatever a checkpoint did meanwhile."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from app.store import durable
from app.store.checkpoint import checkpoint
from app.store.delete import delete
from app.store.put import PutOrder, put
from app.store.store import Store
from artstore.clock import uuid7
from artstore.contracts.files import Attributes
from artstore.errors import Unavailable

from .support import RememberingCatalog, body_of, files_on_disk, new_file, opened, put_bytes

SIZES = [1700, 100_000]


class RefusingCatalog(RememberingCatalog):
    """Holds each row back until `answer` is set, then refuses it."""

    def __init__(self) -> None:
        super().__init__()
        self.holds_back = False
        self.asked, self.answer = asyncio.Event(), asyncio.Event()

    async def note(self, attributes: Attributes, *, saga_id: str | None, change: str) -> None:
        if self.holds_back:
            self.asked.set()
            await self.answer.wait()
            raise Unavailable("the catalog refuses the row")
        await super().note(attributes, saga_id=saga_id, change=change)


async def power_cut_during_checkpoint(
    root: Path, store: Store, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], Awaitable[object]]
) -> Path:
    """The disk as it may be afterwards: `files/` as the checkpoint's syncfs took it, the log with all that came since."""
    cut = root.with_name("cut")
    taken, go_on = threading.Event(), threading.Event()
    real = durable.sync_filesystem

    def sync(fd: int) -> None:
        real(fd)
        if taken.is_set():
            return  # the checkpoint that a full segment asks for
        shutil.copytree(root / "files", cut / "files")
        taken.set()
        go_on.wait(120)

    with monkeypatch.context() as patched:
        patched.setattr(durable, "sync_filesystem", sync)
        checkpointing = asyncio.create_task(checkpoint(store, rotate=True))
        await asyncio.to_thread(taken.wait, 60)
        await meanwhile()
        go_on.set()
        await checkpointing
    await store.wal.rotate()
    for name in ("wal", "tmp", "wal-aside", "quarantine", "upkeep"):
        shutil.copytree(root / name, cut / name)
    return cut


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("size", SIZES)
async def test_a_put_undone_during_a_checkpoint_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, torn: bool
) -> None:
    """Nor what the power cut has left of it: a small file was not synced by itself."""
    root, catalog = tmp_path / "root", RefusingCatalog()
    async with opened(root, catalog) as store:
        kept = (await put_bytes(store, b"acknowledged" * 100)).attributes.file_id
        catalog.holds_back = True
        failing = asyncio.create_task(put_bytes(store, b"x" * size))
        await catalog.asked.wait()

        async def refuse() -> None:
            catalog.answer.set()
            with pytest.raises(Unavailable):
                await failing

        cut = await power_cut_during_checkpoint(root, store, monkeypatch, refuse)
        catalog.holds_back = False
    for path in (cut / "files").rglob("*.attr.json"):
        if torn and not path.name.startswith(kept):
            path.write_bytes(bytes(path.stat().st_size // 2))
    after = RememberingCatalog()
    async with opened(cut, after) as store:
        assert set(files_on_disk(cut)) == {kept}
        assert set(store.unconfirmed) <= {kept}
        assert store.wal.open == {}


@pytest.mark.parametrize("size", SIZES)
async def test_a_delete_during_a_checkpoint_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    root = tmp_path / "root"
    async with opened(root) as store:
        kept, gone = [(await put_bytes(store, b"x" * size)).attributes.file_id for _ in range(2)]
        cut = await power_cut_during_checkpoint(root, store, monkeypatch, lambda: delete(store, gone))
    async with opened(cut) as store:
        assert set(files_on_disk(cut)) == {kept}


@pytest.mark.parametrize("size", SIZES)
async def test_an_id_whose_first_put_was_undone_keeps_the_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """A client that makes its own ids tries again under the same one."""
    root, catalog, file_id = tmp_path / "root", RefusingCatalog(), str(uuid7())
    async with opened(root, catalog) as store:
        catalog.holds_back = True
        failing = asyncio.create_task(put_bytes(store, b"x" * size, file_id=file_id))
        await catalog.asked.wait()

        async def refuse_then_take() -> None:
            catalog.answer.set()
            with pytest.raises(Unavailable):
                await failing
            catalog.holds_back = False
            await put(store, PutOrder(file_id, new_file(), str(uuid7())), body_of(b"y" * size))

        await power_cut_during_checkpoint(root, store, monkeypatch, refuse_then_take)
        crashed = tmp_path / "crashed"
        shutil.copytree(root, crashed)
    async with opened(crashed) as store:
        assert files_on_disk(crashed) == {file_id: b"y" * size}
