"""The registry of elements as a subscriber holds it: from Redis, else from admin, else from the last one kept on disk.

The snapshot is read at every (re)subscribe and polled as a safety net; an older (generation, version) never replaces a newer
one, whichever source it comes from. Where it is from and how old it is stand in `/health/ready` and in two metrics.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import msgspec
from prometheus_client import Gauge
from redis.asyncio import Redis
from redis.exceptions import RedisError

from artstore.contracts.elements import CONFIG_CHANNEL, SNAPSHOT_KEY, Element, Snapshot
from artstore.errors import ArtStoreError
from artstore.kept_registry import KeptRegistry
from artstore.logs import get_logger
from artstore.peers.client import Peer
from artstore.redis import listen
from artstore.runtime import Runtime

log = get_logger("artstore.discovery")

POLL_EVERY_S = 2.0
"""With the two seconds a dead Redis may take to show itself, what was missed is made good within five."""
ADMIN_TIMEOUT_S = 2.0
ANY_REPLACES = (-1, -1)
"""The order of a registry that no running source has confirmed."""
SOURCES = ("redis", "admin", "file", "settings", "none")


class _Listed(msgspec.Struct, frozen=True):
    """Admin's list: all of it, since more than one page of elements is more than this is made for."""

    items: list[Element]
    version: int
    published_at: str
    next_cursor: str | None = None
    generation: int = 0


class Discovery:
    """Opened by whoever places or finds files. `source` is one of SOURCES."""

    def __init__(
        self,
        runtime: Runtime,
        redis: Redis,
        admin: Peer,
        *,
        kept: Path | None = None,
        configured: str | None = None,
        taken: Callable[[Collection[str]], None] = lambda _ids: None,
    ) -> None:
        """`taken` is called with the ids of all elements whenever a registry is taken."""
        self._runtime, self._redis, self._admin, self._taken = runtime, redis, admin, taken
        self._kept = KeptRegistry(kept, runtime.clock) if kept is not None else None
        self._snapshot: Snapshot | None = None
        self._order = ANY_REPLACES
        self._confirmed_s = -math.inf
        self.source = "none"
        self._take_fallback(configured)
        self._show()
        runtime.tasks.forever("discovery", self._listen)
        runtime.tasks.every("discovery-poll", POLL_EVERY_S, self._poll)

    @property
    def elements(self) -> list[Element]:
        return self._snapshot.elements if self._snapshot else []

    @property
    def catalog_complete(self) -> bool:
        """Whether every known element has its files in the catalog. False while no registry is known."""
        return self._snapshot is not None and self._snapshot.catalog_complete

    @property
    def age_s(self) -> float:
        """How long ago a source last confirmed what is held here; infinite for what was only configured."""
        return self._runtime.clock.monotonic_s() - self._confirmed_s

    def find(self, element_id: str) -> Element | None:
        return next((element for element in self.elements if element.id == element_id), None)

    async def check(self) -> str:
        """For readiness: says where the registry is from and how old it is. Raises while no element is known."""
        if not self.elements:
            raise ConnectionError("no storage element is known yet")
        age = f"confirmed {self.age_s:.0f} s ago" if math.isfinite(self.age_s) else "never confirmed"
        return f"{len(self.elements)} elements from {self.source}, {age}"

    def _show(self) -> None:
        registry = self._runtime.registry
        age = Gauge("discovery_age_seconds", "Since a source last confirmed the registry", registry=registry)
        age.set_function(lambda: self.age_s)
        source = Gauge("discovery_source", "1 for the source of the registry held", ["source"], registry=registry)
        for name in SOURCES:
            source.labels(name).set_function(partial(self._is_from, name))

    def _is_from(self, source: str) -> float:
        return float(self.source == source)

    async def _listen(self) -> None:
        await listen(self._redis, {CONFIG_CHANNEL: self._take_text}, subscribed=self._read_snapshot)

    async def _poll(self) -> None:
        try:
            if await self._read_snapshot():
                return
        except RedisError as error:
            log.debug("snapshot not readable", error=str(error))
        await self._ask_admin()

    async def _read_snapshot(self) -> bool:
        """Whether Redis confirmed what is held or had newer."""
        raw = await self._redis.get(SNAPSHOT_KEY)
        return raw is not None and await self._take_text(raw)

    async def _take_text(self, raw: str | bytes) -> bool:
        try:
            snapshot = msgspec.json.decode(raw, type=Snapshot)
        except msgspec.MsgspecError as error:
            log.warning("snapshot unreadable", error=str(error))
            return False
        return await self._take(snapshot, "redis")

    async def _ask_admin(self) -> None:
        try:
            answer = await self._admin.call(
                "GET", "/api/storage-elements", params={"limit": "1000"}, timeout_s=ADMIN_TIMEOUT_S
            )
            listed = msgspec.json.decode(answer.body, type=_Listed)
        except (ArtStoreError, msgspec.MsgspecError) as error:
            age_s = round(self.age_s) if math.isfinite(self.age_s) else None
            log.warning("no source of the registry answers", error=str(error), age_s=age_s, held=self.source)
            return
        if listed.next_cursor is not None:
            log.error("admin lists more elements than one page", elements=len(listed.items))
        await self._take(
            Snapshot(
                version=listed.version,
                published_at=listed.published_at,
                elements=listed.items,
                generation=listed.generation,
            ),
            "admin",
        )

    async def _take(self, snapshot: Snapshot, source: str) -> bool:
        """False for one that is older than what is held."""
        if snapshot.order < self._order:
            return False
        self._order = snapshot.order
        for element in snapshot.elements:
            self._runtime.files.space_used.labels(element.id).set(element.capacity.used_bytes)
        if source != self.source:
            log.info("registry taken", source=source, before=self.source, version=snapshot.version)
        self._snapshot, self.source = snapshot, source
        self._taken({element.id for element in snapshot.elements})
        self._confirmed_s = self._runtime.clock.monotonic_s()
        if self._kept is not None:
            await asyncio.to_thread(self._kept.keep, snapshot)
        return True

    def _take_fallback(self, configured: str | None) -> None:
        """The last registry kept, else the one configured: a list of elements as JSON. Anything newer heard replaces it."""
        kept = self._kept.load() if self._kept is not None else None
        if kept is not None:
            snapshot, age_s = kept
            self._snapshot, self.source = snapshot, "file"
            self._confirmed_s = self._runtime.clock.monotonic_s() - age_s
        elif configured:
            try:
                elements = msgspec.json.decode(configured, type=list[Element])
            except msgspec.MsgspecError as error:
                log.warning("STORAGE_ELEMENTS is unreadable", error=str(error))
                return
            self._snapshot, self.source = Snapshot(version=0, published_at="", elements=elements), "settings"
