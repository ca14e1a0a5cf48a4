"""Checks the whole audit log as it lies in PostgreSQL."""

from __future__ import annotations

import asyncio
from typing import Any

from artstore.audit.check import ADMIN_CHAIN, Checker
from artstore.audit.event import Signed, fingerprint
from artstore.database import Database

from .chain import Auditor
from .checkpoints import Checkpoints, all_checkpoints
from .read import Filters, load_public_keys, walk_events


async def verify(database: Database, auditor: Auditor, checkpoints: Checkpoints) -> dict[str, Any]:
    """{"ok", "events", "chains", "checkpoints", "findings": [{"what", "chain", "seq", "detail"}]}. Takes 0.2 ms an event."""
    # 1. what is remembered elsewhere, before what is to be checked by it
    known_number = await checkpoints.known_number()
    async with database.begin() as conn:
        signed = await all_checkpoints(conn)
        keys = await load_public_keys(conn)
    # 2. admin's own key comes out of its seal, not from the table an attacker can write
    own = auditor.key.public_key().public_bytes_raw()
    replaced = keys.get(ADMIN_CHAIN) != own
    checker = Checker({**keys, ADMIN_CHAIN: own}, signed)
    # 3. the events, in threads: checking a thousand takes longer than a request may wait
    async for events in walk_events(database, Filters()):
        await asyncio.to_thread(_add, checker, events)
    findings = [
        {"what": one.what, "chain": one.chain, "seq": one.seq, "detail": one.detail}
        for one in await asyncio.to_thread(checker.finish, known_number=known_number)
    ]
    if replaced:
        findings.append({"what": "wrong_key", "chain": ADMIN_CHAIN, "seq": 0, "detail": "its public key was replaced"})
    return {
        "ok": not findings,
        "events": checker.events,
        "chains": {chain: fingerprint(key) for chain, key in sorted(keys.items())},
        "checkpoints": len(signed),
        "findings": findings,
    }


def _add(checker: Checker, events: list[Signed]) -> None:
    for event in events:
        checker.add(event)
