"""The read path of attributes: memory, Redis, the catalog, the element's attr.json; each answer refreshes what is above.

The revision decides which of two answers is newer, and a change that overtakes a lookup keeps its answer out of memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from artstore.errors import NotFound, Unavailable
from artstore.logs import get_logger
from artstore.tasks import spawn

from .attributes import AttributesLevel
from .catalog import CatalogLevel, Known
from .levels import LevelMetrics, Source
from .memory import Memory, Record
from .redis import Looked, RedisLevel
from .refill import Refill

log = get_logger("query.lookup")

Freshness = Literal["cached", "disk"]
_Key = tuple[str, Freshness]
NOTHING = Looked(None, 0, "")
"""What Redis says while it is away."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file's record, the level that had it, and what was away on the way to it."""

    record: Record
    source: Source
    away: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Levels:
    """What a lookup asks, nearest first."""

    memory: Memory
    redis: RedisLevel
    catalog: CatalogLevel
    attributes: AttributesLevel
    refill: Refill
    metrics: LevelMetrics


class Lookup:
    """`flights` are lookups under way, each shared by all who ask for the same file meanwhile."""

    def __init__(self, levels: Levels) -> None:
        self._levels = levels
        self._flights: dict[_Key, asyncio.Task[Found]] = {}
        self._running: set[asyncio.Task[Found]] = set()

    async def find(self, file_id: str) -> Found:
        """The file's record as the nearest level has it. Raises NotFound, or Unavailable when nobody can tell."""
        # 1. memory, unless changes may have been missed; then it is the last resort
        if not self._levels.redis.hears_changes:
            return await self._find_past_memory(file_id)
        record = self._levels.memory.find(file_id)
        self._levels.metrics.count("memory", record is not None)
        if record is not None:
            return Found(record, "memory")
        if self._levels.memory.is_absent(file_id):
            raise _not_found(file_id)
        return await self._shared((file_id, "cached"))

    async def _find_past_memory(self, file_id: str) -> Found:
        try:
            return await self._shared((file_id, "cached"))
        except Unavailable as error:
            record = self._levels.memory.find(file_id)
            if record is None:
                raise
            return Found(record, "memory", tuple(error.fields.get("away", ())))

    async def find_on_disk(self, contradicted: Record) -> Found:
        """The record as the elements have it now, after one of them contradicted what the caches say."""
        file_id = contradicted.attributes.file_id
        try:
            return await self._shared((file_id, "disk"))
        except NotFound:
            await self._drop_in_redis(file_id, contradicted.revision + 1)
            raise

    def forget(self, file_id: str, floor: int) -> None:
        """A change was announced: older revisions go, and lookups under way will not bring them back."""
        self._levels.memory.drop(file_id, floor)
        self._flights.pop((file_id, "cached"), None)
        self._flights.pop((file_id, "disk"), None)

    def forget_all(self) -> None:
        """Changes were missed, or will be: nothing in memory can be trusted."""
        self._levels.memory.clear()
        self._flights.clear()

    async def close(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _shared(self, key: _Key) -> Found:
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = spawn("lookup", self._fetch(*key))
            self._running.add(flight)
            flight.add_done_callback(partial(self._landed, key))
        return await asyncio.shield(flight)

    def _landed(self, key: _Key, flight: asyncio.Task[Found]) -> None:
        self._running.discard(flight)
        error = None if flight.cancelled() else flight.exception()
        if self._flights.get(key) is not flight:
            return  # a change overtook it: who waits gets the answer, memory does not
        del self._flights[key]
        if isinstance(error, NotFound):
            self._levels.memory.keep_absent(key[0])
        elif error is None and not flight.cancelled():
            self._levels.memory.keep(flight.result().record)

    async def _fetch(self, file_id: str, freshness: Freshness) -> Found:
        away: list[str] = []
        # 2. Redis; if it has not the record, it gives the lease under which it will take what is found below
        looked = await self._ask_redis(file_id, freshness, away)
        if looked.record is not None:
            return Found(looked.record, "redis", tuple(away))
        # 3. the catalog
        known = await self._ask_catalog(file_id, away)
        if known is not None and known.record is None:
            raise _not_found(file_id, away)  # its upload is not committed
        if known is not None and known.record is not None and freshness == "cached" and _is_good(known, looked):
            await self._keep_in_redis(known.record, looked, away)
            return Found(known.record, "database", tuple(away))
        # 4. the element's attr.json
        return await self._ask_elements(file_id, known, looked, away)

    async def _ask_redis(self, file_id: str, freshness: Freshness, away: list[str]) -> Looked:
        level = self._levels.redis
        try:
            looked = await (level.find(file_id) if freshness == "cached" else level.lease(file_id))
        except Unavailable:
            self._levels.metrics.count_away("redis")
            away.append("redis")
            return NOTHING
        if freshness == "cached":
            self._levels.metrics.count("redis", looked.record is not None)
        return looked

    async def _keep_in_redis(self, record: Record, looked: Looked, away: list[str]) -> None:
        if looked.lease:
            try:
                await self._levels.redis.keep(record, looked.lease)
            except Unavailable:
                away.append("redis")

    async def _drop_in_redis(self, file_id: str, floor: int) -> None:
        try:
            await self._levels.redis.drop(file_id, floor)
        except Unavailable:
            self._levels.metrics.count_away("redis")

    async def _ask_catalog(self, file_id: str, away: list[str]) -> Known | None:
        try:
            known = await self._levels.catalog.find(file_id)
        except Unavailable:
            self._levels.metrics.count_away("database")
            away.append("database")
            return None
        self._levels.metrics.count("database", known is not None and known.record is not None)
        return known

    async def _ask_elements(self, file_id: str, known: Known | None, looked: Looked, away: list[str]) -> Found:
        asked = await self._levels.attributes.ask(file_id, known.storage_element_id if known else None)
        self._levels.metrics.count("attributes", asked.record is not None)
        away.extend(asked.silent)
        row = known.record if known else None
        good = row if row is not None and row.revision >= looked.floor else None
        if asked.record is not None and (good is None or good.revision <= asked.record.revision):
            await self._keep_in_redis(asked.record, looked, away)
            if "database" not in away and not asked.record.saga_open:
                self._levels.refill.offer(asked.record)
            return Found(asked.record, "attributes", tuple(away))
        if asked.aside is not None:
            raise asked.aside
        if good is not None and (asked.silent or asked.record is not None):
            log.warning("catalog row not confirmed by an element", file_id=file_id, silent=asked.silent)
            return Found(good, "database", tuple(away))
        if asked.silent:
            self._levels.metrics.count_away("attributes")
            raise Unavailable(f"nobody can tell while these are away: {', '.join(away)}", away=away, file_id=file_id)
        # A row that every element denies stays: only the element that has the disk takes rows out of the catalog.
        raise _not_found(file_id, away)


def _is_good(known: Known, looked: Looked) -> bool:
    """Not when Redis knows of a change that the row does not have yet: PostgreSQL was away when it was made."""
    return known.fresh and known.record is not None and known.record.revision >= looked.floor


def _not_found(file_id: str, away: Sequence[str] = ()) -> NotFound:
    met: dict[str, Any] = {"away": list(away)} if away else {}
    return NotFound("there is no file with this id", file_id=file_id, **met)
