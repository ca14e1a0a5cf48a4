"""Checkpoint: make the files themselves durable, log that, and free the older segments of the log."""

from __future__ import annotations

import asyncio

from artstore.failpoints import failpoint

from . import durable
from .store import Store
from .wal.records import Checkpoint

APPLIED_POLL_S = 0.01


async def checkpoint(store: Store, *, rotate: bool = False) -> None:
    """Covers everything before the segment in use; with `rotate`, everything written so far. Raises ElementFailed."""
    async with store.checkpointing:
        await _checkpoint(store, rotate=rotate)


async def _checkpoint(store: Store, *, rotate: bool) -> None:
    if rotate:
        await store.wal.rotate()
    boundary = store.wal.boundary
    while store.wal.unapplied_before(boundary):  # noqa: ASYNC110 — rare, and short
        await asyncio.sleep(APPLIED_POLL_S)
    try:
        await store.in_thread(durable.sync_filesystem, store.root_fd)
    except OSError as error:
        failed = store.disk_health.explain(error)
        store.wal.give_up()
        raise failed from error
    failpoint("checkpoint.synced")
    log_folder = await store.in_thread(durable.identify, store.files.paths.wal)
    await store.wal.log_checkpoint(describe(store, boundary, log_folder))
    failpoint("checkpoint.freed")


def describe(store: Store, boundary: int, log_folder: durable.FileIdentity | None) -> Checkpoint:
    """The state that would be lost with the older segments."""
    newest = list(store.unconfirmed.items())[-store.wal.max_unconfirmed :]
    return Checkpoint(
        redo_from=boundary,
        still_open=[opened.carried() for opened in store.wal.open.values() if opened.number < boundary],
        unconfirmed=dict(newest),
        files=store.usage.files,
        bytes_used=store.usage.bytes_used,
        exact=store.usage.exact,
        log_folder=log_folder,
    )


async def keep_checkpointing(store: Store) -> None:
    """One checkpoint after each filled segment, until the disk fails. Other errors are raised with the checkpoint still due, so
    the caller calls this again."""
    while True:
        await store.wal.rotated.wait()
        store.wal.rotated.clear()
        try:
            await checkpoint(store)
        except Exception:
            if store.disk_health.failure is not None:
                await asyncio.Event().wait()  # read-only until the next start
            store.wal.rotated.set()
            raise
