"""Open an element's root: lock, folders, log, recovery. And close it so that the next start finds nothing to do."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from artstore.clock import Clock
from artstore.errors import ArtStoreError
from artstore.logs import get_logger
from artstore.tasks import repeat, spawn

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
from .space import Reserve, Space, Usage
from .store import Limits, Store, Threads
from .wal.log import Wal
from .wal.replay import Replay, understand
from .wal.ring import WalLimits
from .wal.segment import SUFFIX, Segment, SegmentRead, open_segment, read_segment

log = get_logger("store.opening")
_SEGMENT = re.compile(r"\d{8}" + re.escape(SUFFIX))


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
    """The folders of a root, made where missing, and this process alone on it. Raises RootRefused."""
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
) -> AsyncIterator[Store]:
    """Recovered and ready. The root must be locked. `files` None: on this root's disk. Raises OSError when the disk refuses."""
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
        space=Space(paths.root, settings.reserve, usage, settings.quota_bytes, local_files=files.nonblocking_reads),
        limits=settings.limits,
        threads=Threads(files.threads),
        root_fd=os.open(paths.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC),
    )
    store.progress = progress or store.progress
    store.require_confirmed = require_confirmed or store.require_confirmed
    try:
        store.progress.begin("reading the log")
        read = await asyncio.to_thread(_read_log, paths, clock.unix_s())
        await store.wal.start(read.free, read.live, read.replay.next_number, read.replay.last_sequence)
        await recover(store, read.replay)
    except BaseException:
        await _let_go(store)
        raise
    checkpoints = spawn("checkpoints", repeat("checkpoints", 0.0, partial(keep_checkpointing, store)))
    try:
        yield store
    finally:
        await _close(store, checkpoints)


@dataclass(frozen=True, slots=True)
class _Log:
    replay: Replay
    free: list[Segment]
    live: list[Segment]


def _read_log(paths: Paths, now_s: float) -> _Log:
    """What it says; and its segments, oldest first: those a next recovery would need again, and those it would not."""
    read: list[tuple[int, str, SegmentRead | None]] = []
    for name in sorted(os.listdir(paths.wal)):
        if _SEGMENT.fullmatch(name):
            path = f"{paths.wal}/{name}"
            segment = read_segment(path)
            read.append((segment.sequence if segment is not None else 0, path, segment))
    read.sort(key=lambda one: one[0])
    replay = understand([segment for _, _, segment in read if segment is not None], now_s)
    found = _Log(replay, [], [])
    for sequence, path, segment in read:
        opened = open_segment(path)
        if segment is not None and any(frame.number >= replay.redo_from for frame in segment.frames):
            opened.sequence, opened.first, opened.end = sequence, segment.first, segment.frames[-1].number + 1
            found.live.append(opened)
        else:
            found.free.append(opened)
    return found


async def _close(store: Store, checkpoints: asyncio.Task[None]) -> None:
    """With a last checkpoint: the next start finds nothing to do."""
    await store.drain()
    checkpoints.cancel()
    await asyncio.wait({checkpoints})
    try:
        if store.disk_health.failure is None:
            await checkpoint(store, rotate=True)
    except ArtStoreError as error:  # the next start recovers
        log.warning("no checkpoint at the stop", error=error.detail)
    finally:
        await _let_go(store)


async def _let_go(store: Store) -> None:
    await store.wal.stop()
    store.end_threads()
    os.close(store.root_fd)
