"""Writes records that were read from disk back to the catalog, in the background and in groups.

A new row is compared with the disk once more *after* it is written. A delete before that is seen, and a later one finds the
row and removes it, so no row outlives its file. A row that existed before is never removed here; only the element with the disk
may do that. The database permits no more than this (`artstore.catalog.tables.REFILL`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from prometheus_client import CollectorRegistry, Counter

from artstore.catalog.write import refill, take_back
from artstore.database import Database
from artstore.tracing import begin_work

from .attributes import AttributesLevel
from .memory import Record

MAX_WAITING = 10_000
"""Records waiting for a slow catalog. Further ones are dropped; the next read offers them again."""
MAX_GROUP = 64


class Refill:
    """`run` is a background task; `offer` never waits."""

    def __init__(self, database: Database, attributes: AttributesLevel, registry: CollectorRegistry) -> None:
        self._database, self._attributes = database, attributes
        self._waiting: OrderedDict[str, Record] = OrderedDict()
        self._offered = asyncio.Event()
        self._rows = Counter(
            "catalog_refilled_total",
            "Catalog rows corrected after a read from disk",
            ["change"],
            registry=registry,
        )

    def offer(self, record: Record) -> None:
        """An element has just answered with this record."""
        if len(self._waiting) < MAX_WAITING:
            self._waiting[record.attributes.file_id] = record
            self._offered.set()

    async def run(self) -> None:
        while True:
            await self._offered.wait()
            self._offered.clear()
            while self._waiting:
                await self._write(self._next_group())

    async def _write(self, records: list[Record]) -> None:
        """Records are lost when the catalog is unavailable; the next read offers them again."""
        begin_work("catalog-refill")
        async with self._database.begin(durable=False) as connection:
            added = await refill(connection, [record.attributes for record in records])
        self._rows.labels("noted").inc(len(records))
        deleted = await self._deleted([record for record in records if record.attributes.file_id in added])
        if deleted:
            async with self._database.begin(durable=False) as connection:
                taken_back = await take_back(connection, [record.attributes for record in deleted])
            self._rows.labels("forgotten").inc(taken_back)

    def _next_group(self) -> list[Record]:
        count = min(MAX_GROUP, len(self._waiting))
        return [self._waiting.popitem(last=False)[1] for _ in range(count)]

    async def _deleted(self, records: list[Record]) -> list[Record]:
        answers = await asyncio.gather(
            *(self._attributes.still_has(r.attributes.file_id, r.attributes.storage_element_id) for r in records)
        )
        return [record for record, exists in zip(records, answers, strict=True) if exists is False]
