"""What was read from disk goes back into the catalog, behind the readers' backs and in groups.

Surprise: each row that was not there before is checked against disk once more *after* it is written. A delete that took the
file away before the check is seen by the check; one that comes after it finds the row and removes it. So no row outlives its
file. A row that was there before is never removed here, whatever elements answer: that is for the element that has the disk.
The database itself allows no more than this (`artstore.catalog.tables.REFILL`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from prometheus_client import CollectorRegistry, Counter

from artstore.catalog.refill import refill, take_back
from artstore.database import Database

from .attributes import AttributesLevel
from .memory import Record

MAX_WAITING = 10_000
"""Records that wait for a slow catalog; more are left for the next reader."""
MAX_GROUP = 64


class Refill:
    """`run` is a background task of its own; `offer` never waits."""

    def __init__(self, database: Database, attributes: AttributesLevel, registry: CollectorRegistry) -> None:
        self._database, self._attributes = database, attributes
        self._seen: OrderedDict[str, Record] = OrderedDict()
        self._offered = asyncio.Event()
        self._rows = Counter("catalog_refilled_total", "Catalog rows put right", ["change"], registry=registry)

    def offer(self, record: Record) -> None:
        """An element has just answered this."""
        if len(self._seen) < MAX_WAITING:
            self._seen[record.attributes.file_id] = record
            self._offered.set()

    async def run(self) -> None:
        while True:
            await self._offered.wait()
            self._offered.clear()
            while self._seen:
                await self._write(_take(self._seen))

    async def _write(self, seen: list[Record]) -> None:
        """What the catalog refuses to take now is left for the next reader."""
        async with self._database.begin(durable=False) as connection:
            added = await refill(connection, [record.attributes for record in seen])
        self._rows.labels("noted").inc(len(seen))
        vanished = await self._vanished([record for record in seen if record.attributes.file_id in added])
        if vanished:
            async with self._database.begin(durable=False) as connection:
                taken_back = await take_back(connection, [record.attributes for record in vanished])
            self._rows.labels("forgotten").inc(taken_back)

    async def _vanished(self, records: list[Record]) -> list[Record]:
        asked = await asyncio.gather(
            *(self._attributes.still_has(r.attributes.file_id, r.attributes.storage_element_id) for r in records)
        )
        return [record for record, there in zip(records, asked, strict=True) if there is False]


def _take(waiting: OrderedDict[str, Record]) -> list[Record]:
    return [waiting.popitem(last=False)[1] for _ in range(min(MAX_GROUP, len(waiting)))]
