"""This element: its id, root and mode, its reports to admin, and how it applies the answers."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass

import msgspec

from artstore import __version__
from artstore.clock import Clock, rfc3339
from artstore.contracts.elements import MAKE_ROOT, Capacity, ElementReport, Fill, Mode, RegistryState
from artstore.errors import ArtStoreError, BadGateway, Fenced, Unavailable, UnknownRoot
from artstore.logs import get_logger
from artstore.modes import ROW, Operation, check_change, require
from artstore.peers.client import Peer
from artstore.tasks import spawn

from .modes import start_mode
from .serving import Serving
from .store.identity import Identity, RootRefused, find_identity, new_root_id, save_identity
from .store.paths import Paths
from .store.space import fill_of
from .store.store import Store
from .upkeep.generation import CatalogGeneration

log = get_logger("element")

ANNOUNCE_TIMEOUT_S = 5.0
ANNOUNCE_RETRY_S = 2.0
"""While admin is unavailable, or refuses the root: the next report learns of an operator's accept-root."""
FULL_EVERY_S, FULL_WAIT_S = 1.0, 2.0
NOTHING = Capacity(total_bytes=0, used_bytes=0, available_bytes=0, files=0, fill=Fill.FULL)


@dataclass(frozen=True, slots=True)
class Announced:
    """The parts of a report that come from the configuration."""

    element_id: str
    url: str
    public_url: str | None
    backend: str
    priority: int
    mode: Mode
    mode_forced: bool


def start_identity(
    paths: Paths, element_id: str, configured: Mode, *, force: bool, clock: Clock, root_id: str | None = None
) -> Identity:
    """The identity to start with, saved durably before it is used. Raises RootRefused when the root belongs
    to another element.

    `root_id` is for a root that has none yet. A refused root keeps its incarnation: starting a copy
    repeatedly does not make it the newest.
    """
    kept = find_identity(paths)
    if kept is not None:
        require_own(paths, kept, element_id)
    start = start_mode(kept.mode if kept is not None else None, configured, force=force)
    if start.warning is not None:
        log.warning("configured mode not used", reason=start.warning, mode=start.mode.value)
    changed_at = kept.changed_at if kept is not None and kept.mode is start.mode else rfc3339(clock.now())
    if kept is None:
        identity = Identity(
            element_id=element_id, mode=start.mode, changed_at=changed_at, root_id=root_id or new_root_id()
        )
    elif not kept.root_id:
        # A root from a version without root ids has served, so it counts as accepted.
        identity = msgspec.structs.replace(kept, root_id=root_id or new_root_id(), accepted=True)
    else:
        identity = kept
    counted = identity.incarnation + (0 if identity.fenced else 1)
    identity = msgspec.structs.replace(identity, mode=start.mode, changed_at=changed_at, incarnation=counted)
    save_identity(paths, identity)
    return identity


def require_own(paths: Paths, kept: Identity, element_id: str) -> None:
    """Raises RootRefused."""
    if kept.element_id != element_id:
        raise RootRefused(f"{paths.root} belongs to the element {kept.element_id}, not to {element_id}")


class Element:
    """One per process."""

    def __init__(self, announced: Announced, serving: Serving, admin: Peer, clock: Clock) -> None:
        self._announced, self._serving, self._admin, self._clock = announced, serving, admin, clock
        self.instance = secrets.token_hex(8)
        self._identity: Identity | None = None
        self._paths: Paths | None = None
        self._store: Store | None = None
        self._generation: CatalogGeneration | None = None
        self._changing = asyncio.Lock()
        self._announcing = asyncio.Lock()
        self._failure_reported = False
        self._full: asyncio.Task[None] | None = None
        """The last report of `announce_full`. The next one may begin at `_next_full_s`."""
        self._next_full_s = 0.0
        self.confirmed = asyncio.Event()
        """Set once admin has accepted the root in this process, possibly before the store is open."""

    @property
    def id(self) -> str:
        return self._announced.element_id

    @property
    def mode(self) -> Mode:
        return self._identity.mode if self._identity is not None else self._announced.mode

    def take_root(self, identity: Identity, paths: Paths) -> None:
        self._identity, self._paths = identity, paths
        self._serving.accepted = identity.accepted and not identity.fenced
        if identity.fenced:
            self._serving.refusal = "admin refused it before; POST /api/storage-elements/{id}/accept-root takes it"

    def take_store(self, store: Store, generation: CatalogGeneration) -> None:
        self._store, self._generation = store, generation

    def require(self, operation: Operation) -> None:
        """Raises ModeForbids. Checked once, when an operation begins: running operations may finish."""
        require(self.mode, operation)

    async def change_mode(self, wanted: Mode) -> bool:
        """True when the mode changed. It is durable before it takes effect. Raises Conflict, Unavailable."""
        self._serving.require()
        async with self._changing:
            if not check_change(self.mode, wanted):
                return False
            await self._take_mode(wanted)
        return True

    def report(self) -> ElementReport:
        identity, store = self._identity, self._store
        return ElementReport(
            id=self.id,
            url=self._announced.url,
            public_url=self._announced.public_url,
            mode=self.mode,
            backend=self._announced.backend,
            version=__version__,
            capacity=_capacity(store) if store is not None else NOTHING,
            priority=self._announced.priority,
            read_only_reason=store.disk_health.failure if store is not None else None,
            catalog=self._generation.report() if self._generation is not None else None,
            away_reason=self._away_reason(),
            mode_forced=self._announced.mode_forced and self.mode is self._announced.mode,
            root_id=identity.root_id if identity is not None else "",
            incarnation=identity.incarnation if identity is not None else 0,
            instance=self.instance,
            fenced=identity is not None and identity.fenced,
        )

    async def ask_for_root(self) -> bool:
        """True if admin allows this element to create a root. Raises the errors of the call."""
        return await self._send() == {"verdict": MAKE_ROOT}

    async def announce_until_answered(self) -> None:
        """Repeats the report while admin is unavailable, since after 90 s without one this element counts as
        away, and while the root is refused."""
        logged = False
        while True:
            try:
                await self.announce()
                return
            except (Unavailable, BadGateway) as error:
                if not logged:
                    log.warning("report not delivered", error=error.detail)
                logged = True
            except (UnknownRoot, Fenced):
                pass  # logged by `announce`
            await asyncio.sleep(ANNOUNCE_RETRY_S)

    async def announce(self) -> None:
        """Report to admin and apply its verdict on the root. Raises the errors of the call."""
        try:
            answer = await self._send()
        except (UnknownRoot, Fenced) as error:
            await self._refused(error)
            raise
        await self._accepted(answer)
        state = answer.get("registry") if isinstance(answer, dict) else None
        if state is not None and self._generation is not None:
            await self._generation.update(msgspec.convert(state, RegistryState), answered=True)

    async def announce_now(self) -> None:
        """Report a change before the next round. When admin is unavailable, the next round reports it."""
        try:
            await self.announce()
        except ArtStoreError as error:
            log.warning("report not delivered", error=error.detail)

    async def announce_full(self) -> None:
        """An upload did not fit: report the space before it is refused, so that the next ones go to other elements. Refusals
        share a report. When admin does not answer soon, the refusal does not wait for it."""
        if self._full is None or self._full.done():
            self._full = spawn("announce-full", self._announce_full())
        await asyncio.wait((self._full,), timeout=FULL_WAIT_S)

    async def _announce_full(self) -> None:
        """At most one report in FULL_EVERY_S."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._next_full_s - loop.time())
        self._next_full_s = loop.time() + FULL_EVERY_S
        await self.announce_now()

    async def check_disk(self) -> None:
        """Raises ElementFailed once the disk has failed. The first time it is also logged and reported to
        admin."""
        if self._store is None:
            return
        reason = self._store.disk_health.failure
        if reason is not None and not self._failure_reported:
            self._failure_reported = True
            log.error("disk failed: read-only until the next start", element_id=self.id, reason=reason)
            await self.announce_now()
        self._store.disk_health.require_writable()

    def _away_reason(self) -> str | None:
        """The reason that a report gives, without the reasons that admin itself decides about."""
        serving = self._serving
        if serving.waiting_for is not None or not serving.open:
            return serving.waiting_for or f"starting: {serving.progress}"
        return serving.presence.find_fault() if serving.presence is not None else None

    async def _send(self) -> object:
        path = f"/api/storage-elements/{self.id}/report"
        async with self._announcing:
            body = msgspec.json.encode(self.report())
            answer = await self._admin.call("POST", path, body=body, timeout_s=ANNOUNCE_TIMEOUT_S)
        return msgspec.json.decode(answer.body)

    async def _accepted(self, answer: object) -> None:
        if self._identity is None:
            return
        mode = answer.get("mode") if isinstance(answer, dict) else None
        async with self._changing:
            if mode in tuple(ROW) and ROW.index(Mode(mode)) > ROW.index(self.mode):
                log.warning("mode adopted from the registry", was=self.mode.value, mode=mode)
                await self._take_mode(Mode(mode))
            if not self._identity.accepted or self._identity.fenced:
                await self._save(msgspec.structs.replace(self._identity, accepted=True, fenced=False))
        changed = not self._serving.confirmed or self._serving.refusal is not None
        self._serving.accepted, self._serving.confirmed, self._serving.refusal = True, True, None
        if changed:
            log.info("root accepted", element_id=self.id, incarnation=self._identity.incarnation)
            self.confirmed.set()

    async def _refused(self, error: ArtStoreError) -> None:
        """Nothing is served from now on. Saved, so that the root does not serve after a restart while admin
        is unavailable."""
        reason = f"{error.code}: {error.detail}"
        if self._serving.refusal != reason:
            log.error("root refused: nothing is served until admin accepts it", element_id=self.id, reason=reason)
        self._serving.refusal, self._serving.confirmed = reason, False
        async with self._changing:
            if self._identity is not None and not self._identity.fenced:
                try:
                    await self._save(msgspec.structs.replace(self._identity, fenced=True))
                except ArtStoreError as failure:
                    log.error("refusal not saved", error=failure.detail)

    async def _take_mode(self, mode: Mode) -> None:
        if self._identity is None:
            raise Unavailable("the element has not opened a root yet", away=self.id)
        was = self.mode
        await self._save(msgspec.structs.replace(self._identity, mode=mode, changed_at=rfc3339(self._clock.now())))
        log.warning("mode changed", element_id=self.id, was=was.value, mode=mode.value)

    async def _save(self, identity: Identity) -> None:
        """Durable before it takes effect. Raises the typed error of a failed write."""
        if self._paths is None:
            raise Unavailable("the element has not opened a root yet", away=self.id)
        try:
            await asyncio.to_thread(save_identity, self._paths, identity)
        except OSError as error:
            if self._store is not None:
                raise self._store.disk_health.explain(error) from error
            raise Unavailable(f"element.json cannot be written: {error.strerror}") from error
        self._identity = identity


def _capacity(store: Store) -> Capacity:
    disk = store.space.measure()
    available = store.space.available_bytes()
    return Capacity(
        total_bytes=disk.total_bytes,
        used_bytes=store.usage.bytes_used,
        available_bytes=available,
        files=store.usage.files,
        fill=fill_of(disk.total_bytes, available),
    )
