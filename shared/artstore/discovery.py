"""The registry of storage elements as a subscriber holds it: from Redis, else from admin, else from a file or
the settings.

The snapshot is read after every (re)subscription and polled in addition; an older (generation, version) never
replaces a newer one, whatever the source. `/health/ready` and two metrics show the source and the age.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import msgspec
from prometheus_client import Gauge
from redis.asyncio import Redis
from redis.exceptions import RedisError

from artstore.atomic_file import replace_file
from artstore.clock import Clock
from artstore.contracts.elements import CONFIG_CHANNEL, SNAPSHOT_KEY, Element, Snapshot
from artstore.errors import ArtStoreError
from artstore.logs import get_logger
from artstore.peers.client import Peer
from artstore.redis import listen
from artstore.runtime import Runtime

log = get_logger("artstore.discovery")

POLL_EVERY_S = 2.0
"""A dead Redis is detected within 2 s, so a missed message is made good within 5 s."""
ADMIN_TIMEOUT_S = 2.0
ANY_REPLACES = (-1, -1)
"""The order of a registry that no source has confirmed yet."""
TOUCH_EVERY_S = 10.0
"""How exact the age of the registry file is after a restart."""
SOURCES = ("redis", "admin", "file", "settings", "none")


class _Listed(msgspec.Struct, frozen=True):
    """Admin's answer to GET /api/storage-elements. One page must hold all elements."""

    items: list[Element]
    version: int
    published_at: str
    next_cursor: str | None = None
    generation: int = 0


class Discovery:
    """Used by the services that place or find files. `source` is one of SOURCES."""

    def __init__(
        self,
        runtime: Runtime,
        redis: Redis,
        admin: Peer,
        *,
        file: Path | None = None,
        fallback: str | None = None,
        on_elements: Callable[[Collection[str]], None] = lambda _ids: None,
    ) -> None:
        """`file` keeps the last registry over a restart; `fallback` is a list of elements as JSON, used until
        any source answers. `on_elements` is called with the ids of all elements whenever a registry is
        adopted."""
        self._runtime, self._redis, self._admin, self._on_elements = runtime, redis, admin, on_elements
        self._file = _RegistryFile(file, runtime.clock) if file is not None else None
        self._snapshot: Snapshot | None = None
        self._order = ANY_REPLACES
        self._confirmed_s = -math.inf
        self.source = "none"
        self._use_fallback(fallback)
        self._export_metrics()
        runtime.tasks.forever("discovery", self._listen)
        runtime.tasks.every("discovery-poll", POLL_EVERY_S, self._poll)

    @property
    def elements(self) -> list[Element]:
        return self._snapshot.elements if self._snapshot else []

    @property
    def catalog_complete(self) -> bool:
        """True if the catalog has the files of every known element. False while no registry is known."""
        return self._snapshot is not None and self._snapshot.catalog_complete

    @property
    def age_s(self) -> float:
        """Seconds since a source last confirmed this registry; infinite for one that comes from the settings."""
        return self._runtime.clock.monotonic_s() - self._confirmed_s

    def find(self, element_id: str) -> Element | None:
        return next((element for element in self.elements if element.id == element_id), None)

    async def check(self) -> str:
        """The readiness check: returns the source and the age. Raises while no element is known."""
        if not self.elements:
            raise ConnectionError("no storage element is known yet")
        age = f"confirmed {self.age_s:.0f} s ago" if math.isfinite(self.age_s) else "never confirmed"
        return f"{len(self.elements)} elements from {self.source}, {age}"

    def _export_metrics(self) -> None:
        registry = self._runtime.registry
        age = Gauge("discovery_age_seconds", "Seconds since a source last confirmed the registry", registry=registry)
        age.set_function(lambda: self.age_s)
        source = Gauge(
            "discovery_source", "1 for the source that the current registry came from", ["source"], registry=registry
        )
        for name in SOURCES:
            source.labels(name).set_function(partial(self._is_from, name))

    def _is_from(self, source: str) -> float:
        return float(self.source == source)

    async def _listen(self) -> None:
        await listen(self._redis, {CONFIG_CHANNEL: self._adopt_text}, subscribed=self._read_snapshot)

    async def _poll(self) -> None:
        try:
            if await self._read_snapshot():
                return
        except RedisError as error:
            log.debug("snapshot not read", error=str(error))
        await self._ask_admin()

    async def _read_snapshot(self) -> bool:
        """True if Redis had the current registry or a newer one."""
        raw = await self._redis.get(SNAPSHOT_KEY)
        return raw is not None and await self._adopt_text(raw)

    async def _adopt_text(self, raw: str | bytes) -> bool:
        try:
            snapshot = msgspec.json.decode(raw, type=Snapshot)
        except msgspec.MsgspecError as error:
            log.warning("snapshot unreadable", error=str(error))
            return False
        return await self._adopt(snapshot, "redis")

    async def _ask_admin(self) -> None:
        try:
            answer = await self._admin.call(
                "GET", "/api/storage-elements", params={"limit": "1000"}, timeout_s=ADMIN_TIMEOUT_S
            )
            listed = msgspec.json.decode(answer.body, type=_Listed)
        except (ArtStoreError, msgspec.MsgspecError) as error:
            age_s = round(self.age_s) if math.isfinite(self.age_s) else None
            log.warning("no source of the registry answers", error=str(error), age_s=age_s, source=self.source)
            return
        if listed.next_cursor is not None:
            log.error("admin lists more elements than fit on one page", elements=len(listed.items))
        await self._adopt(
            Snapshot(
                version=listed.version,
                published_at=listed.published_at,
                elements=listed.items,
                generation=listed.generation,
            ),
            "admin",
        )

    async def _adopt(self, snapshot: Snapshot, source: str) -> bool:
        """False if the snapshot is older than the current registry."""
        if snapshot.order < self._order:
            return False
        self._order = snapshot.order
        if source != self.source:
            log.info("registry adopted", source=source, before=self.source, version=snapshot.version)
        self._snapshot, self.source = snapshot, source
        self._on_elements({element.id for element in snapshot.elements})
        self._confirmed_s = self._runtime.clock.monotonic_s()
        if self._file is not None and self._file.is_due(snapshot):
            await asyncio.to_thread(self._file.save, snapshot)
        return True

    def _use_fallback(self, fallback: str | None) -> None:
        """Starts from the registry file, else from `fallback`. Every source that answers replaces it."""
        saved = self._file.load() if self._file is not None else None
        if saved is not None:
            snapshot, age_s = saved
            self._snapshot, self.source = snapshot, "file"
            self._confirmed_s = self._runtime.clock.monotonic_s() - age_s
        elif fallback:
            try:
                elements = msgspec.json.decode(fallback, type=list[Element])
            except msgspec.MsgspecError as error:
                log.warning("STORAGE_ELEMENTS is unreadable", error=str(error))
                return
            self._snapshot, self.source = Snapshot(version=0, published_at="", elements=elements), "settings"


class _RegistryFile:
    """The last confirmed registry in a file, for a start without Redis and admin. I/O errors are logged and
    otherwise ignored."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self._saved: Snapshot | None = None
        self._touched_s = -math.inf

    def load(self) -> tuple[Snapshot, float] | None:
        """The registry and its age in seconds; None without a readable file."""
        try:
            age_s = max(0.0, self._clock.unix_s() - self._path.stat().st_mtime)
            return msgspec.json.decode(self._path.read_bytes(), type=Snapshot), age_s
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("registry file unreadable", path=str(self._path), error=str(error))
            return None

    def is_due(self, snapshot: Snapshot) -> bool:
        return self._differs(snapshot) or self._clock.monotonic_s() - self._touched_s >= TOUCH_EVERY_S

    def save(self, snapshot: Snapshot) -> None:
        """Blocks on disk. An unchanged registry only gets a new modification time."""
        now_s = self._clock.monotonic_s()
        try:
            if self._differs(snapshot):
                replace_file(self._path, msgspec.json.encode(snapshot))
            else:
                os.utime(self._path)
        except OSError as error:
            log.warning("registry file not written", path=str(self._path), error=str(error))
            return
        self._saved, self._touched_s = snapshot, now_s

    def _differs(self, snapshot: Snapshot) -> bool:
        saved = self._saved
        return saved is None or (saved.generation, saved.elements) != (snapshot.generation, snapshot.elements)
