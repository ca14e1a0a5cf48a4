"""Rows that query writes into the catalog, through the functions of `tables.REFILL`, for files that an
element has just answered for."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.catalog.write import columns_of
from artstore.contracts.files import Attributes

_REFILL = text("SELECT CAST(file_id AS text) FROM refill_files(CAST(:entries AS jsonb)) AS file_id")
_TAKE_BACK = text("SELECT take_back_refilled(CAST(:gone AS jsonb))")


async def refill(connection: AsyncConnection, files: Sequence[Attributes]) -> set[str]:
    """Adds missing rows, updates the date of existing ones, and raises those of a lower revision, each with
    an event. Returns the ids of the added rows."""
    entries = orjson.dumps([columns_of(attributes) for attributes in files]).decode()
    return set((await connection.execute(_REFILL, {"entries": entries})).scalars())


async def take_back(connection: AsyncConnection, files: Sequence[Attributes]) -> int:
    """Removes rows that `refill` added in the last ten minutes and that were not changed since. Returns their
    number."""
    gone = [
        {"file_id": one.file_id, "revision": one.revision, "storage_element_id": one.storage_element_id}
        for one in files
    ]
    removed: int = await connection.scalar(_TAKE_BACK, {"gone": orjson.dumps(gone).decode()})
    return removed
