"""The audit log as NDJSON, with all that is needed to check it anywhere: `artstore audit verify FILE`.

Lines: one {"type": "export"}, the newest {"type": "seal"} if there is one, then {"type": "key"} and {"type": "checkpoint"}, then
the events as they were signed, one chain after the other. With a seal the log begins after it.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator

import orjson

from artstore.audit.event import Signed
from artstore.clock import Clock, rfc3339
from artstore.database import Database
from artstore.errors import Conflict
from artstore.failpoints import failpoint

from .checkpoints import walk_checkpoints
from .read import Filters, load_public_keys, walk_events
from .seals import Seals

NDJSON = "application/x-ndjson"


async def export(database: Database, seals: Seals, clock: Clock, filters: Filters) -> AsyncIterator[bytes]:
    """A part of the log, chosen by filters, has no checkpoints: nothing can be said of its gaps.

    Raises Conflict, which breaks the answer off, when a seal was made meanwhile: events below it may have been deleted before
    they were read, and the export would look damaged.
    """
    async with database.begin() as conn:
        keys = await load_public_keys(conn)
    seal = (await seals.newest())[0] if filters.empty else None
    head: Signed = {"type": "export", "whole": filters.empty, "exported_at": rfc3339(clock.now())}
    key_lines: list[Signed] = [
        {"type": "key", "chain": chain, "public_key": base64.b64encode(key).decode()} for chain, key in keys.items()
    ]
    yield _lines([head, *([seal] if seal else []), *key_lines])
    failpoint("admin.audit_export_begun")
    known: dict[str, int] = {}
    if filters.empty:
        first = seal["checkpoint"]["number"] if seal else 0
        known = {chain: end["seq"] for chain, end in seal["checkpoint"]["heads"].items()} if seal else {}
        async for checkpoints in walk_checkpoints(database, first):
            yield await asyncio.to_thread(_lines, checkpoints)
    async for events in walk_events(database, filters, known):
        yield await asyncio.to_thread(_lines, events)
    if filters.empty and (await seals.newest())[0] != seal:
        raise Conflict("the audit log was sealed during the export: repeat it")


def _lines(values: list[Signed]) -> bytes:
    return b"".join(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE) for value in values)
