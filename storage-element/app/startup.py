"""The start: from the configuration to an open store, while the port is open already and `/health/ready`
shows the progress.

1. A root that was used before is opened at once. If there is none, admin is asked first: if the registry
   knows this element, its disk is lost, and no new root is created in its place. A disk that appears
   meanwhile is opened.
2. The store is opened. Its recovery may take long.
3. Background tasks begin, and the element reports to admin.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from artstore.clock import Clock
from artstore.errors import ArtStoreError, StartRefused
from artstore.logs import get_logger
from artstore.tasks import spawn

from .element import ANNOUNCE_RETRY_S, Announced, Element, require_own, start_identity
from .serving import Serving
from .store.identity import Identity, find_identity
from .store.open import locked_root
from .store.paths import Paths
from .store.progress import StartStopped
from .store.root import Presence, require_complete, require_one_filesystem, require_renames

log = get_logger("element.start")

SLOW_START_S = 2.0
"""A longer start is reported to admin; a quick one does not change the registry twice."""


@dataclass(frozen=True, slots=True)
class RootSettings:
    path: str
    local_files: bool
    """False: the files are in a bucket, the root holds only the log and temps."""
    find_root_id: Callable[[Paths], str | None]
    """Returns a root id that the root already has outside element.json (S3: its binding)."""
    check_backend: Callable[[Paths], None]


class Startup:
    def __init__(
        self,
        root: RootSettings,
        announced: Announced,
        element: Element,
        serving: Serving,
        clock: Clock,
        refuse: Callable[[StartRefused], None],
    ) -> None:
        self._root, self._announced, self._element, self._serving = root, announced, element, serving
        self._clock, self._refuse = clock, refuse
        self._opened = AsyncExitStack()
        self._pinned: Paths | None = None
        self._task: asyncio.Task[None] | None = None

    async def begin(self, open_store: Callable[[Paths, AsyncExitStack], Awaitable[None]]) -> None:
        """Opens a root that was used before; the rest continues behind the open port. Raises RootRefused."""
        await asyncio.to_thread(self._check)
        if await asyncio.to_thread(self._find) is not None:
            await self._open_root()
        else:
            self._serving.waiting_for = "there is no root at STORAGE_ROOT: asking admin whether this element is new"
        self._task = spawn("start", self._continue(open_store))

    async def close(self) -> None:
        """Stops the start at any point. A running recovery ends between two of its steps."""
        self._serving.progress.stopping = True
        if self._task is not None:
            if self._serving.waiting_for is not None:
                self._task.cancel()
            await asyncio.wait({self._task})
        await self._opened.aclose()

    async def _continue(self, open_store: Callable[[Paths, AsyncExitStack], Awaitable[None]]) -> None:
        slow = spawn("slow start", self._report_when_slow())
        try:
            await open_store(self._pinned or await self._wait_for_root(), self._opened)
        except StartStopped:
            log.info("start stopped", at=str(self._serving.progress))
        except StartRefused as error:
            self._refuse(error)
        except Exception as error:  # the edge of the task, which is not awaited
            log.critical("start failed", error=str(error), exc_info=True)
            self._refuse(StartRefused(f"the store cannot be opened: {error}"))
        finally:
            slow.cancel()

    async def _wait_for_root(self) -> Paths:
        """Until a used root appears, or admin allows a new one. Nothing is written before. Raises
        RootRefused."""
        while True:
            if await asyncio.to_thread(self._find) is not None:
                break
            try:
                if await self._element.ask_for_root():
                    log.warning("new root created", path=self._root.path)
                    break
                self._serving.waiting_for = "admin's answer about a new root cannot be decoded"
            except ArtStoreError as error:
                self._serving.waiting_for = f"there is no root at {self._root.path}: {error.detail}"
                log.warning("no root", path=self._root.path, error=error.detail)
            await asyncio.sleep(ANNOUNCE_RETRY_S)
        pinned = await self._open_root()
        self._serving.waiting_for = None
        return pinned

    async def _open_root(self) -> Paths:
        paths = await self._opened.enter_async_context(locked_root(self._root.path))
        identity = await asyncio.to_thread(self._identify, paths)
        fd = os.open(paths.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._opened.callback(os.close, fd)
        self._pinned = paths.pinned(fd)
        self._serving.presence = Presence(paths.root, fd, self._pinned, local_files=self._root.local_files)
        self._element.take_root(identity, self._pinned)
        return self._pinned

    def _find(self) -> Identity | None:
        paths = Paths(os.path.abspath(self._root.path))
        identity = find_identity(paths)
        if identity is not None:
            require_own(paths, identity, self._announced.element_id)
            self._check()
            if self._root.local_files:
                require_complete(paths)
        return identity

    def _check(self) -> None:
        if self._root.local_files:
            require_one_filesystem(Paths(os.path.abspath(self._root.path)))

    def _identify(self, paths: Paths) -> Identity:
        self._root.check_backend(paths)
        if self._root.local_files:
            require_one_filesystem(paths)
            require_renames(paths)
        return start_identity(
            paths,
            self._announced.element_id,
            self._announced.mode,
            force=self._announced.mode_forced,
            clock=self._clock,
            root_id=self._root.find_root_id(paths),
        )

    async def _report_when_slow(self) -> None:
        await asyncio.sleep(SLOW_START_S)
        while True:
            if self._serving.waiting_for is None:
                await self._element.announce_now()
            await asyncio.sleep(ANNOUNCE_RETRY_S * 5)
