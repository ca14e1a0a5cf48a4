"""Open an element's root: lock, folders, log, recovery. And close it so that the next start has nothing to recover."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from artstore.clock import Clock
from artstore.errors import ArtStoreError
from artstore.logs import get_logger
from artstore.tasks import repeat, spawn
from artstore.tracing import long_work

from . import durable
from .backends.base import Backend
from .backends.local import LocalBackend
from .catalog import Catalog
from .checkpoint import checkpoint, keep_checkpointing
from .disk_health import DiskHealth
from .identity import lock_root
from .paths import Paths
from .progress import Progress
from .recover import recover
from .settle_late import keep_settling, settle_late_rows
from .space import Reserve, Space, Usage
from .store import FileChange, Limits, Store, Threads
from .wal.log import Wal
from .wal.replay import read_log
from .wal.ring import WalLimits

log = get_logger("element.store")


@dataclass(frozen=True, slots=True)
class StoreSettings:
    element_id: str
    root: str
    reserve: Reserve = field(default_factory=Reserve)
    quota_bytes: int | None = None
    limits: Limits = field(default_factory=Limits)
    wal: WalLimits = field(default_factory=WalLimits)


@asynccontextmanager
async def locked_root(root: str) -> AsyncIterator[Paths]:
    """The folders of a root, created where missing, locked for this process. Raises RootRefused."""
    paths = Paths(os.path.abspath(root))
    await asyncio.to_thread(durable.make_path, paths.root)
    lock = lock_root(paths)
    try:
        await asyncio.to_thread(durable.make_tree, paths.made_once())
        yield paths
    finally:
        os.close(lock)


@asynccontextmanager
async def open_store(
    paths: Paths,
    settings: StoreSettings,
    catalog: Catalog,
    clock: Clock,
    files: Backend | None = None,
    *,
    progress: Progress | None = None,
    require_confirmed: Callable[[], None] | None = None,
    record_change: Callable[[FileChange], Awaitable[None]] | None = None,
) -> AsyncIterator[Store]:
    """A recovered store. The root must be locked. `files` None: on this root's disk. Raises OSError when the disk fails."""
    disk_health, usage = DiskHealth(), Usage()
    files = files or LocalBackend(paths)
    store = Store(
        element_id=settings.element_id,
        files=files,
        wal=Wal(paths.wal, settings.wal, disk_health),
        catalog=catalog,
        clock=clock,
        disk_health=disk_health,
        usage=usage,
        space=Space(paths.root, settings.reserve, usage, settings.quota_bytes, local_files=files.log_carries_files),
        limits=settings.limits,
        threads=Threads(files.threads),
        root_fd=os.open(paths.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC),
    )
    store.progress = progress or store.progress
    store.require_confirmed = require_confirmed or store.require_confirmed
    store.record_change = record_change or store.record_change
    try:
        store.progress.begin("reading the log")
        with long_work("recovery"):
            read = await asyncio.to_thread(read_log, paths.wal, clock.unix_s())
            await store.wal.start(read.free, read.live, read.replay.next_number, read.replay.last_sequence)
            await recover(store, read.replay)
    except BaseException:
        await _release(store)
        raise
    tasks = {
        spawn("checkpoints", repeat("checkpoints", 0.0, partial(keep_checkpointing, store))),
        spawn("late rows", repeat("late rows", 0.0, partial(keep_settling, store))),
    }
    try:
        yield store
    finally:
        await _close(store, tasks)


async def _close(store: Store, tasks: set[asyncio.Task[None]]) -> None:
    """With a last checkpoint, so that the next start has nothing to recover."""
    await store.drain()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await settle_late_rows(store)
    try:
        if store.disk_health.failure is None:
            await checkpoint(store, rotate=True)
    except ArtStoreError as error:  # the next start recovers
        log.warning("no checkpoint at the stop", error=error.detail)
    finally:
        await _release(store)


async def _release(store: Store) -> None:
    await store.wal.stop()
    store.threads.shutdown()
    os.close(store.root_fd)
