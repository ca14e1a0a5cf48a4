"""Checks the audit log as it lies in PostgreSQL: all of it, or what came after a checkpoint."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from artstore.audit.check import ADMIN_CHAIN, CHECKPOINTS, Checker, Finding
from artstore.audit.event import Signed, fingerprint, hash_of, is_signed_by
from artstore.database import Database
from artstore.errors import NotFound

from .chain import Auditor
from .checkpoints import Checkpoints, load_checkpoints
from .heads import Heads
from .read import Filters, count_events, find_event, load_public_keys, walk_events


class Verification:
    """One check at a time in a process: each takes a core for as long as it lasts."""

    def __init__(self, database: Database, auditor: Auditor, checkpoints: Checkpoints, heads: Heads) -> None:
        self._database, self._auditor, self._checkpoints, self._heads = database, auditor, checkpoints, heads
        self._turn = asyncio.Lock()

    async def run(self, from_checkpoint: int | None = None) -> dict[str, Any]:
        """{"ok", "events", "chains", "checkpoints", "from_checkpoint", "last_checkpoint", "findings": [{"what", "chain",
        "seq", "detail"}]}. With `from_checkpoint` the events before it, which an earlier check has vouched for, are only
        counted.

        Takes 0.1 ms an event. Raises NotFound for a checkpoint that is not there.
        """
        async with self._turn:
            return await self._run(from_checkpoint)

    async def _run(self, from_checkpoint: int | None) -> dict[str, Any]:
        # 1. what is remembered elsewhere, before what is to be checked by it
        known_number, known_ends = await self._checkpoints.known_number(), await self._heads.known()
        async with self._database.begin() as conn:
            signed = await load_checkpoints(conn, from_checkpoint or 0)
            keys = await load_public_keys(conn)
        # 2. admin's own key comes out of its seal, not from the table an attacker can write
        own = self._auditor.key.public_key()
        findings: list[Finding] = []
        if keys.get(ADMIN_CHAIN) != own.public_bytes_raw():
            findings.append(Finding("wrong_key", ADMIN_CHAIN, 0, "its public key was replaced"))
        began = None
        if from_checkpoint is not None:
            if not signed or signed[0]["number"] != from_checkpoint:
                raise NotFound(f"there is no checkpoint {from_checkpoint}")
            began, signed = signed[0], signed[1:]
            if not is_signed_by(began, own):
                findings.append(
                    Finding("changed", CHECKPOINTS, began["number"], "its signature does not fit what it says")
                )
            findings += await self._look_back(began)
        checker = Checker({**keys, ADMIN_CHAIN: own.public_bytes_raw()}, signed, began=began)
        # 3. the events, in threads: checking a thousand takes longer than a request may wait
        known = {} if began is None else _ends(began)
        async for events in walk_events(self._database, Filters(), known):
            await asyncio.to_thread(_add, checker, events)
        findings += await asyncio.to_thread(checker.finish, known_number=known_number, known_ends=known_ends)
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

    async def _look_back(self, began: Signed) -> list[Finding]:
        """Whether what an earlier check has seen is still there, as far as counting tells; the ends to the byte."""
        found, ends = [], _ends(began)
        async with self._database.begin() as conn:
            counts = await count_events(conn, ends)
            for chain, seq in sorted(ends.items()):
                if counts.get(chain, 0) < seq:
                    what = f"of {seq} events before checkpoint {began['number']} there are {counts.get(chain, 0)}"
                    found.append(Finding("deleted", chain, 0, what))
                event = await find_event(conn, chain, seq)
                if event is None or hash_of(event) != began["heads"][chain]["hash"]:
                    found.append(Finding("changed", chain, seq, f"checkpoint {began['number']} saw another event here"))
        return found


def _ends(checkpoint: Signed) -> dict[str, int]:
    return {chain: head["seq"] for chain, head in checkpoint["heads"].items()}


def _add(checker: Checker, events: list[Signed]) -> None:
    for event in events:
        checker.add(event)
