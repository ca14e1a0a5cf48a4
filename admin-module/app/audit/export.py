"""The audit log as NDJSON, with all that is needed to check it anywhere: `artstore audit verify FILE`.

Lines: one {"type": "export"}, then {"type": "key"} and {"type": "checkpoint"}, then the events as they were signed, one chain
after the other.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

import orjson

from artstore.audit.event import Signed
from artstore.clock import Clock, rfc3339
from artstore.database import Database

from .checkpoints import load_checkpoints
from .read import Filters, load_public_keys, walk_events

NDJSON = "application/x-ndjson"


async def export(database: Database, clock: Clock, filters: Filters) -> AsyncIterator[bytes]:
    """A part of the log, chosen by filters, has no checkpoints: nothing can be said of its gaps."""
    async with database.begin() as conn:
        keys = await load_public_keys(conn)
        checkpoints = await load_checkpoints(conn) if filters.empty else []
    head: Signed = {"type": "export", "whole": filters.empty, "exported_at": rfc3339(clock.now())}
    key_lines: list[Signed] = [
        {"type": "key", "chain": chain, "public_key": base64.b64encode(key).decode()} for chain, key in keys.items()
    ]
    yield _lines([head, *key_lines, *checkpoints])
    async for events in walk_events(database, filters):
        yield _lines(events)


def _lines(values: list[Signed]) -> bytes:
    return b"".join(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE) for value in values)
