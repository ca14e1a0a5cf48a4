"""Exports the audit log as NDJSON with everything that `artstore audit verify FILE` needs to check it offline.

Lines: one {"type": "export"}, the newest {"type": "seal"} if there is one, then {"type": "key"} and {"type": "checkpoint"}, then
the events as they were signed, chain by chain. With a seal the log begins after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from artstore.audit.event import Signed
from artstore.clock import Clock, rfc3339
from artstore.database import Database
from artstore.errors import Conflict
from artstore.failpoints import failpoint

from .checkpoints import end_seqs, walk_checkpoints
from .read import Filters, key_line, load_public_keys, ndjson, walk_events
from .seals import Seals

NDJSON = "application/x-ndjson"


async def export(database: Database, seals: Seals, clock: Clock, filters: Filters) -> AsyncIterator[bytes]:
    """With filters the export has no checkpoints, because gaps in a part of the log are expected.

    Raises Conflict, which aborts the answer, when a seal was made meanwhile: events below it may have been deleted before they
    were read, and the export would look damaged.
    """
    async with database.begin() as conn:
        keys = await load_public_keys(conn)
    seal = (await seals.newest())[0] if filters.empty else None
    head: Signed = {"type": "export", "whole": filters.empty, "exported_at": rfc3339(clock.now())}
    yield ndjson([head, *([seal] if seal else []), *(key_line(chain, key) for chain, key in keys.items())])
    failpoint("admin.audit_export_begun")
    known: dict[str, int] = {}
    if filters.empty:
        first = seal["checkpoint"]["number"] if seal else 0
        known = end_seqs(seal["checkpoint"]) if seal else {}
        async for checkpoints in walk_checkpoints(database, first):
            yield await asyncio.to_thread(ndjson, checkpoints)
    async for events in walk_events(database, filters, known):
        yield await asyncio.to_thread(ndjson, events)
    if filters.empty and (await seals.newest())[0] != seal:
        raise Conflict("the audit log was sealed during the export: repeat it")
