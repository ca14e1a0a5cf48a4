"""This element: its id, its mode, and what it says of itself to admin."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import msgspec

from artstore import __version__
from artstore.clock import Clock, rfc3339
from artstore.contracts.elements import Capacity, ElementReport, Mode
from artstore.errors import ArtStoreError, BadGateway, Unavailable
from artstore.logs import get_logger
from artstore.modes import Operation, check_change, require
from artstore.peers import Peer

from .capacity import fill_of
from .modes import start_mode
from .store.identity import Identity, RootRefused, find_identity, keep_identity
from .store.paths import Paths
from .store.store import Store

log = get_logger("element")

ANNOUNCE_TIMEOUT_S = 5.0
ANNOUNCE_AGAIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Announced:
    """What does not change while it runs."""

    url: str
    backend: str
    priority: int


def start_identity(paths: Paths, element_id: str, configured: Mode, *, force: bool, clock: Clock) -> Identity:
    """The mode to start in, kept durably before it counts. Raises RootRefused when the root is another element's."""
    kept = find_identity(paths)
    if kept is not None and kept.element_id != element_id:
        raise RootRefused(f"{paths.root} belongs to the element {kept.element_id}, not to {element_id}")
    start = start_mode(kept.mode if kept is not None else None, configured, force=force)
    if start.warning is not None:
        log.warning("mode as configured was not simply taken", reason=start.warning, mode=start.mode.value)
    if kept is not None and kept.mode is start.mode:
        return kept
    identity = Identity(element_id=element_id, mode=start.mode, changed_at=rfc3339(clock.now()))
    keep_identity(paths, identity)
    return identity


class Element:
    """The one of this process."""

    def __init__(self, identity: Identity, paths: Paths, store: Store, announced: Announced, admin: Peer) -> None:
        self._identity = identity
        self._paths = paths
        self._store = store
        self._announced = announced
        self._admin = admin
        self._changing = asyncio.Lock()
        self._failure_told = False

    @property
    def mode(self) -> Mode:
        return self._identity.mode

    def require(self, operation: Operation) -> None:
        """Raises ModeForbids. Asked once, when an operation begins: those under way may finish."""
        require(self.mode, operation)

    async def change_mode(self, wanted: Mode) -> bool:
        """True when it changed. On disk before it takes effect. Raises Conflict."""
        async with self._changing:
            if not check_change(self.mode, wanted):
                return False
            changed = msgspec.structs.replace(self._identity, mode=wanted, changed_at=self._store.now())
            try:
                await asyncio.to_thread(keep_identity, self._paths, changed)
            except OSError as error:
                raise self._store.failing.explain(error) from error
            log.warning("mode changed", element_id=changed.element_id, was=self.mode.value, mode=wanted.value)
            self._identity = changed
        return True

    def report(self) -> ElementReport:
        space = self._store.room.look()
        available = self._store.room.available_bytes()
        return ElementReport(
            id=self._identity.element_id,
            url=self._announced.url,
            mode=self.mode,
            backend=self._announced.backend,
            version=__version__,
            capacity=Capacity(
                total_bytes=space.total_bytes,
                used_bytes=self._store.usage.bytes_used,
                available_bytes=available,
                files=self._store.usage.files,
                fill=fill_of(space.total_bytes, available),
            ),
            priority=self._announced.priority,
            read_only_reason=self._store.failing.reason,
        )

    async def announce_until_heard(self) -> None:
        """Soon again while admin is away: after 90 s of silence this element would be away too. Raises admin's refusal."""
        told = False
        while True:
            try:
                await self.announce()
                return
            except (Unavailable, BadGateway) as error:
                if not told:
                    log.warning("not announced", error=error.detail)
                told = True
            await asyncio.sleep(ANNOUNCE_AGAIN_S)

    async def announce(self) -> None:
        """Tell admin. Raises what the call raises."""
        path = f"/api/storage-elements/{self._identity.element_id}/report"
        body = msgspec.json.encode(self.report())
        await self._admin.call("POST", path, body=body, timeout_s=ANNOUNCE_TIMEOUT_S)

    async def announce_now(self) -> None:
        """After a change that others should not learn of only at the next round. Admin away: the round does it."""
        try:
            await self.announce()
        except ArtStoreError as error:
            log.warning("not announced", error=error.detail)

    async def check_disk(self) -> None:
        """Raises ElementFailed once the disk has failed. The first time it is also said aloud, to the log and to admin."""
        reason = self._store.failing.reason
        if reason is not None and not self._failure_told:
            self._failure_told = True
            log.error("the disk failed: read-only until restarted", element_id=self._identity.element_id, reason=reason)
            await self.announce_now()
        self._store.failing.require_sound()
