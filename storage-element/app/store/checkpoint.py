"""Checkpoint: make the files themselves durable, say so in the log, and let its older segments go."""

from __future__ import annotations

import asyncio

from artstore.failpoints import failpoint

from . import durable
from .store import Store
from .wal.records import Checkpoint

APPLIED_POLL_S = 0.01


async def checkpoint(store: Store, *, rotate: bool = False) -> None:
    """All that was written before the segment in use. With `rotate`, all that was written before now. Raises ElementFailed."""
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
    here = await store.in_thread(durable.identify, store.files.paths.wal)
    await store.wal.log_checkpoint(describe(store, boundary, here))
    failpoint("checkpoint.freed")


def describe(store: Store, boundary: int, here: durable.Identity | None) -> Checkpoint:
    """What the log forgets with its older segments and must still know."""
    newest = list(store.unconfirmed.items())[-store.wal.unconfirmed_room :]
    return Checkpoint(
        redo_from=boundary,
        still_open=[begun.carried() for begun in store.wal.open.values() if begun.number < boundary],
        unconfirmed=dict(newest),
        files=store.usage.files,
        bytes_used=store.usage.bytes_used,
        exact=store.usage.exact,
        here=here,
    )


async def keep_checkpointing(store: Store) -> None:
    """One checkpoint after each filled segment, until the element fails. A failure of another kind is raised; the segment
    stays to be freed, so the owner calls this again."""
    while True:
        await store.wal.rotated.wait()
        store.wal.rotated.clear()
        try:
            await checkpoint(store)
        except Exception:
            if store.disk_health.failure is not None:
                await asyncio.Event().wait()  # read-only until it is started again
            store.wal.rotated.set()
            raise
