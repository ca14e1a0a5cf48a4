"""The registry of elements as a subscriber holds it: from Redis, else from admin, else from the last one kept on disk.

The snapshot is read at every (re)subscribe and polled as a safety net; an older version never replaces a newer one.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec
from prometheus_client import Gauge
from redis.asyncio import Redis
from redis.exceptions import RedisError

from artstore.contracts.elements import CONFIG_CHANNEL, SNAPSHOT_KEY, Element, Snapshot
from artstore.errors import ArtStoreError
from artstore.logs import get_logger
from artstore.peers import Peer
from artstore.redis import listen
from artstore.service import Runtime

log = get_logger("artstore.discovery")

POLL_EVERY_S = 5.0
ADMIN_TIMEOUT_S = 5.0
_Page = msgspec.defstruct("_Page", [("items", list[Element])])


class Discovery:
    """Opened by whoever places or finds files. `source` is redis, admin, file, settings or none."""

    def __init__(
        self, runtime: Runtime, redis: Redis, admin: Peer, *, kept: Path | None = None, configured: str | None = None
    ) -> None:
        self._runtime, self._redis, self._admin, self._kept = runtime, redis, admin, kept
        self._snapshot: Snapshot | None = None
        self._confirmed_s = runtime.clock.monotonic_s()
        self.source = "none"
        self._take_fallback(configured)
        age = Gauge("discovery_age_seconds", "Since the registry was last confirmed", registry=runtime.registry)
        age.set_function(lambda: self.age_s)
        runtime.tasks.forever("discovery", self._listen)
        runtime.tasks.every("discovery-poll", POLL_EVERY_S, self._poll)

    @property
    def elements(self) -> list[Element]:
        return self._snapshot.elements if self._snapshot else []

    @property
    def age_s(self) -> float:
        """How long ago a source last confirmed what is held here."""
        return self._runtime.clock.monotonic_s() - self._confirmed_s

    def find(self, element_id: str) -> Element | None:
        return next((element for element in self.elements if element.id == element_id), None)

    async def check(self) -> None:
        """Raises while no element is known: for readiness."""
        if not self.elements:
            raise ConnectionError("no storage element is known yet")

    async def _listen(self) -> None:
        await listen(self._redis, CONFIG_CHANNEL, subscribed=self._read_snapshot, message=self._take_text)

    async def _poll(self) -> None:
        try:
            if await self._read_snapshot():
                return
        except RedisError as error:
            log.debug("snapshot not readable", error=str(error))
        await self._ask_admin()

    async def _read_snapshot(self) -> bool:
        raw = await self._redis.get(SNAPSHOT_KEY)
        if raw is None:
            return False
        await self._take_text(raw)
        return True

    async def _take_text(self, raw: str | bytes) -> None:
        try:
            snapshot = msgspec.json.decode(raw, type=Snapshot)
        except msgspec.MsgspecError as error:
            log.warning("snapshot unreadable", error=str(error))
            return
        await self._take(snapshot, "redis")

    async def _ask_admin(self) -> None:
        """Admin's list has no version: it is as new as the answer, so it keeps the version held here."""
        try:
            answer = await self._admin.call(
                "GET", "/api/storage-elements", params={"limit": "1000"}, timeout_s=ADMIN_TIMEOUT_S
            )
            elements = msgspec.json.decode(answer.body, type=_Page).items  # type: ignore[attr-defined]
        except (ArtStoreError, msgspec.MsgspecError) as error:
            log.warning(
                "no source of the registry answers", error=str(error), age_s=round(self.age_s), held=self.source
            )
            return
        version = self._snapshot.version if self._snapshot else 0
        published_at = self._snapshot.published_at if self._snapshot else ""
        await self._take(Snapshot(version=version, published_at=published_at, elements=elements), "admin")

    async def _take(self, snapshot: Snapshot, source: str) -> None:
        if self._snapshot is not None and snapshot.version < self._snapshot.version:
            return
        for element in snapshot.elements:
            self._runtime.files.space_used.labels(element.id).set(element.capacity.used_bytes)
        changed = self._snapshot is None or snapshot.elements != self._snapshot.elements
        self._snapshot, self.source = snapshot, source
        self._confirmed_s = self._runtime.clock.monotonic_s()
        if changed and self._kept is not None:
            await asyncio.to_thread(self._keep, msgspec.json.encode(snapshot), self._kept)

    def _keep(self, encoded: bytes, path: Path) -> None:
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_bytes(encoded)
        fresh.replace(path)

    def _take_fallback(self, configured: str | None) -> None:
        """The last registry kept, else the one configured: a list of elements as JSON. Version 0: anything replaces it."""
        try:
            if self._kept is not None and self._kept.exists():
                kept = msgspec.json.decode(self._kept.read_bytes(), type=Snapshot)
                self._snapshot, self.source = msgspec.structs.replace(kept, version=0), "file"
            elif configured:
                elements = msgspec.json.decode(configured, type=list[Element])
                self._snapshot, self.source = Snapshot(version=0, published_at="", elements=elements), "settings"
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("local configuration of elements unreadable", error=str(error))
