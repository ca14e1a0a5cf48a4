"""The read path of attributes: memory, Redis, the catalog, the element's attr.json. An answer refreshes the levels above.

The revision decides which of two answers is newer. A change announced during a lookup keeps its answer out of memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import msgspec

from artstore.errors import NotFound, Unavailable
from artstore.logs import get_logger
from artstore.tasks import spawn
from artstore.tracing import span

from .catalog import CatalogEntry
from .levels import Levels, Source
from .memory import Record
from .redis import RedisEntry

log = get_logger("query.lookup")

Freshness = Literal["cached", "disk"]
_Key = tuple[str, Freshness]
NO_ENTRY = RedisEntry(None, 0, "")
"""Used while Redis is unavailable."""


class Found(msgspec.Struct, frozen=True):
    """A file's record, the level that had it, and the dependencies that were found unavailable on the way."""

    record: Record
    source: Source
    away: tuple[str, ...] = ()


class Lookup:
    """Concurrent requests for one file share one lookup (a flight, as in Go's singleflight)."""

    def __init__(self, levels: Levels) -> None:
        self._levels = levels
        self._flights: dict[_Key, asyncio.Task[Found]] = {}
        self._running: set[asyncio.Task[Found]] = set()

    async def find(self, file_id: str, *, with_content: bool = False) -> Found:
        """The file's record as the nearest level has it. Raises NotFound, or Unavailable when no level can answer.

        `with_content`: an element that must be asked for the attributes also gives the bytes of a small file, which
        are then in memory.
        """
        # 1. Memory, unless change events may be lost: then it is the last resort.
        if not self._levels.redis.is_subscribed:
            return await self._find_below_memory(file_id, with_content)
        record = self._levels.memory.find(file_id)
        self._levels.metrics.count("memory", record is not None)
        if record is not None:
            return Found(record, "memory")
        if self._levels.memory.is_absent(file_id):
            raise _not_found(file_id)
        return await self._shared((file_id, "cached"), with_content)

    async def _find_below_memory(self, file_id: str, with_content: bool) -> Found:
        try:
            return await self._shared((file_id, "cached"), with_content)
        except Unavailable as error:
            record = self._levels.memory.find(file_id)
            if record is None:
                raise
            return Found(record, "memory", tuple(error.fields.get("away", ())))

    async def find_on_disk(self, contradicted: Record) -> Found:
        """The record on the elements' disks, after an element contradicted the caches."""
        file_id = contradicted.attributes.file_id
        try:
            return await self._shared((file_id, "disk"), with_content=True)
        except NotFound:
            await self._drop_in_redis(file_id, contradicted.revision + 1)
            raise

    def invalidate(self, file_id: str, floor: int) -> None:
        """Drops revisions below `floor`, also from the lookups that are running."""
        self._levels.memory.drop(file_id, floor)
        self._flights.pop((file_id, "cached"), None)
        self._flights.pop((file_id, "disk"), None)

    def invalidate_all(self) -> None:
        """Empties memory, because change events may be lost."""
        self._levels.memory.clear()
        self._flights.clear()

    async def close(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _shared(self, key: _Key, with_content: bool) -> Found:
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = spawn("lookup", self._fetch(*key, with_content))
            self._running.add(flight)
            flight.add_done_callback(partial(self._finish, key))
        return await asyncio.shield(flight)

    def _finish(self, key: _Key, flight: asyncio.Task[Found]) -> None:
        self._running.discard(flight)
        error = None if flight.cancelled() else flight.exception()
        if self._flights.get(key) is not flight:
            return  # invalidated meanwhile: the waiting requests get the answer, memory does not
        del self._flights[key]
        if isinstance(error, NotFound):
            self._levels.memory.keep_absent(key[0])
        elif error is None and not flight.cancelled():
            self._levels.memory.keep(flight.result().record)

    async def _fetch(self, file_id: str, freshness: Freshness, with_content: bool) -> Found:
        away: list[str] = []
        # 2. Redis. Without the record it gives a lease, under which it accepts what is found below.
        entry = await self._ask_redis(file_id, freshness, away)
        if entry.record is not None:
            return Found(entry.record, "redis", tuple(away))
        # 3. The catalog.
        known = await self._ask_catalog(file_id, away)
        if known is not None and known.record is None:
            raise _not_found(file_id, away)  # the upload is not committed
        if known is not None and known.record is not None and freshness == "cached" and _is_current(known, entry):
            self._keep_in_redis(known.record, entry)
            return Found(known.record, "database", tuple(away))
        # 4. The element's attr.json.
        return await self._ask_elements(file_id, known, entry, away, with_content)

    async def _ask_redis(self, file_id: str, freshness: Freshness, away: list[str]) -> RedisEntry:
        level = self._levels.redis
        try:
            with span("lookup.redis"):
                entry = await (level.find(file_id) if freshness == "cached" else level.lease(file_id))
        except Unavailable:
            self._levels.metrics.count_away("redis")
            away.append("redis")
            return NO_ENTRY
        if freshness == "cached":
            self._levels.metrics.count("redis", entry.record is not None)
        return entry

    def _keep_in_redis(self, record: Record, entry: RedisEntry) -> None:
        if entry.lease:
            self._levels.redis.offer(record, entry.lease)

    async def _drop_in_redis(self, file_id: str, floor: int) -> None:
        try:
            await self._levels.redis.drop(file_id, floor)
        except Unavailable:
            self._levels.metrics.count_away("redis")

    async def _ask_catalog(self, file_id: str, away: list[str]) -> CatalogEntry | None:
        try:
            with span("lookup.catalog"):
                known = await self._levels.catalog.find(file_id)
        except Unavailable:
            self._levels.metrics.count_away("database")
            away.append("database")
            return None
        self._levels.metrics.count("database", known is not None and known.record is not None)
        return known

    async def _ask_elements(
        self, file_id: str, known: CatalogEntry | None, entry: RedisEntry, away: list[str], with_content: bool
    ) -> Found:
        likely = known.storage_element_id if known else None
        with span("lookup.elements"):
            answers = await self._levels.attributes.find(file_id, likely, with_content=with_content)
        self._levels.metrics.count("attributes", answers.record is not None)
        away.extend(answers.silent)
        row = known.record if known else None
        current = row if row is not None and row.revision >= entry.floor else None
        if answers.record is not None and (current is None or current.revision <= answers.record.revision):
            self._keep_in_redis(answers.record, entry)
            if "database" not in away and not answers.record.saga_open:
                self._levels.refill.offer(answers.record)
            return Found(answers.record, "attributes", tuple(away))
        if answers.quarantined is not None:
            raise answers.quarantined
        if current is not None and (answers.silent or answers.record is not None):
            log.warning("catalog row not confirmed by an element", file_id=file_id, silent=answers.silent)
            return Found(current, "database", tuple(away))
        if answers.silent:
            self._levels.metrics.count_away("attributes")
            raise Unavailable(
                f"the file may exist, but these are unavailable: {', '.join(away)}",
                away=away,
                file_id=file_id,
            )
        # The row stays, although no element has the file: only the element with the disk removes rows from the catalog.
        raise _not_found(file_id, away)


def _is_current(known: CatalogEntry, entry: RedisEntry) -> bool:
    """False when Redis knows of a change that the row lacks: PostgreSQL was unavailable when it was made."""
    return known.fresh and known.record is not None and known.record.revision >= entry.floor


def _not_found(file_id: str, away: Sequence[str] = ()) -> NotFound:
    fields: dict[str, Any] = {"away": list(away)} if away else {}
    return NotFound("no file has this id", file_id=file_id, **fields)
