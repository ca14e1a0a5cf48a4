"""Readers have threads of their own: they wait for no sync, no upload to S3 and no scan of the disk."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from app.store import durable
from app.store.backends import local
from app.store.get import WholeFile, list_files, load_attributes, open_file, read_whole_files
from app.store.store import SCANNERS, Store

from .support import opened, put_bytes

BOUND_S = 60
"""Far more than anything here takes; what waits for a thread that is never free waits for ever."""


class ColdCache:
    """Stands for `os` in the backend: nothing is in the page cache, so each read of bytes needs a thread."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def preadv(self, *_: Any) -> int:
        raise BlockingIOError(errno.EAGAIN, "not in the page cache")


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "os", ColdCache())


async def read_all(store: Store, file_id: str, size: int) -> bytes:
    async with asyncio.timeout(BOUND_S):
        await load_attributes(store, file_id)
        opened_ = await open_file(store, file_id)
        try:
            return await opened_.read(0, size)
        finally:
            opened_.close()


@pytest.mark.usefixtures("cold")
async def test_a_read_does_not_wait_for_syncs_that_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path) as store:
        file_id = (await put_bytes(store, b"c" * 200_000)).attributes.file_id
        hang, waiting, real = threading.Event(), threading.Semaphore(0), durable.sync_path

        def sync_path(path: str) -> None:
            waiting.release()
            hang.wait(BOUND_S)
            real(path)

        monkeypatch.setattr(durable, "sync_path", sync_path)
        puts = [asyncio.create_task(put_bytes(store, b"p" * 100_000)) for _ in range(3 * store.files.threads)]
        for _ in range(store.files.threads):
            assert await asyncio.to_thread(waiting.acquire, timeout=BOUND_S)
        assert await read_all(store, file_id, 200_000) == b"c" * 200_000
        async with asyncio.timeout(BOUND_S):
            found, _ = await store.scan_in_thread(list_files, store, "", 10)
        assert [one.file_id for one in found] == [file_id]
        assert not any(task.done() for task in puts)
        hang.set()
        await asyncio.gather(*puts)


@pytest.mark.usefixtures("cold")
async def test_a_file_that_is_slow_to_read_does_not_delay_those_read_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread continues to read the open file, which must not be closed meanwhile."""
    async with opened(tmp_path) as store:
        slow, *others = [(await put_bytes(store, b"%d" % number * 100)).attributes.file_id for number in range(4)]
        hang, real, done = threading.Event(), local.LocalData.read, threading.Event()
        inode = os.stat(store.files.paths.data(slow)).st_ino

        def read(self: local.LocalData, offset: int, size_bytes: int) -> bytes:
            if os.fstat(self.fd).st_ino == inode:
                hang.wait(BOUND_S)
                piece = real(self, offset, size_bytes)
                done.set() if piece == b"0" * 100 else None
                return piece
            return real(self, offset, size_bytes)

        monkeypatch.setattr(local.LocalData, "read", read)
        first, *found = await read_whole_files(store, [slow, *others], 1000)
        assert first is None
        assert [isinstance(one, WholeFile) and one.content for one in found] == [b"%d" % n * 100 for n in (1, 2, 3)]
        hang.set()
        assert await asyncio.to_thread(done.wait, BOUND_S)


@pytest.mark.usefixtures("cold")
async def test_a_read_does_not_wait_for_listings_and_upkeep(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        file_id = (await put_bytes(store, b"c" * 200_000)).attributes.file_id
        hang = threading.Event()
        scans = [asyncio.create_task(store.scan_in_thread(hang.wait, BOUND_S)) for _ in range(2 * SCANNERS)]
        assert await read_all(store, file_id, 200_000) == b"c" * 200_000
        assert (await put_bytes(store, b"p" * 100_000)).created
        assert not any(task.done() for task in scans)
        hang.set()
        await asyncio.gather(*scans)
