"""Checks the audit log as it lies in PostgreSQL: all of it, or what came after a checkpoint."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from artstore.audit.check import ADMIN_CHAIN, CHECKPOINTS, Checker, Finding
from artstore.audit.event import Signed, fingerprint, is_signed_by
from artstore.database import Database
from artstore.errors import NotFound

from .chain import Auditor
from .checkpoints import Checkpoints, load_checkpoints
from .read import Filters, load_public_keys, walk_events


async def verify(
    database: Database, auditor: Auditor, checkpoints: Checkpoints, from_checkpoint: int | None = None
) -> dict[str, Any]:
    """{"ok", "events", "chains", "checkpoints", "from_checkpoint", "last_checkpoint", "findings": [{"what", "chain", "seq",
    "detail"}]}. With `from_checkpoint` only what came after that one, which an earlier check has vouched for.

    Takes 0.2 ms an event. Raises NotFound for a checkpoint that is not there.
    """
    # 1. what is remembered elsewhere, before what is to be checked by it
    known_number = await checkpoints.known_number()
    async with database.begin() as conn:
        signed = await load_checkpoints(conn, from_checkpoint or 0)
        keys = await load_public_keys(conn)
    # 2. admin's own key comes out of its seal, not from the table an attacker can write
    own = auditor.key.public_key()
    replaced = keys.get(ADMIN_CHAIN) != own.public_bytes_raw()
    began = None
    if from_checkpoint is not None:
        if not signed or signed[0]["number"] != from_checkpoint:
            raise NotFound(f"there is no checkpoint {from_checkpoint}")
        began, signed = signed[0], signed[1:]
    checker = Checker({**keys, ADMIN_CHAIN: own.public_bytes_raw()}, signed, began=began)
    # 3. the events, in threads: checking a thousand takes longer than a request may wait
    known = {} if began is None else {chain: head["seq"] for chain, head in began["heads"].items()}
    async for events in walk_events(database, Filters(), known):
        await asyncio.to_thread(_add, checker, events)
    findings = await asyncio.to_thread(checker.finish, known_number=known_number)
    if replaced:
        findings.append(Finding("wrong_key", ADMIN_CHAIN, 0, "its public key was replaced"))
    if began is not None and not is_signed_by(began, own):
        findings.append(Finding("changed", CHECKPOINTS, began["number"], "its signature does not fit what it says"))
    last = signed[-1] if signed else began
    return {
        "ok": not findings,
        "events": checker.events,
        "chains": {chain: fingerprint(key) for chain, key in sorted(keys.items())},
        "checkpoints": len(signed),
        "from_checkpoint": from_checkpoint,
        "last_checkpoint": last["number"] if last is not None else None,
        "findings": [asdict(one) for one in findings],
    }


def _add(checker: Checker, events: list[Signed]) -> None:
    for event in events:
        checker.add(event)
