"""Checks the audit log as it lies in PostgreSQL: all of it, or what came after a checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from artstore.audit.check import ADMIN_CHAIN, CHECKPOINTS, Checker, Finding
from artstore.audit.event import Signed, fingerprint, hash_of, is_signed_by
from artstore.database import Database
from artstore.errors import NotFound
from artstore.failpoints import failpoint

from .chain import Auditor
from .checkpoints import Checkpoints, find_checkpoint, walk_checkpoints
from .heads import Heads
from .read import Filters, count_events, find_event, load_public_keys, walk_events
from .seals import Seals

MAX_RUNS = 3
"""Of one verification. Seals are made every few months; one during each of three runs is no reason to go on."""


class Verification:
    """One check at a time in a process: each takes a core for as long as it lasts."""

    def __init__(
        self, database: Database, auditor: Auditor, checkpoints: Checkpoints, heads: Heads, seals: Seals
    ) -> None:
        self._database, self._auditor, self._checkpoints, self._heads = database, auditor, checkpoints, heads
        self._seals = seals
        self._turn = asyncio.Lock()

    async def run(self, from_checkpoint: int | None = None) -> dict[str, Any]:
        """{"ok", "events", "chains", "checkpoints", "from_checkpoint", "from_seal", "last_checkpoint", "findings": [{"what",
        "chain", "seq", "detail"}]}. With `from_checkpoint` the events before it, which an earlier check has vouched for, are only
        counted.

        Takes 0.1 ms an event. Raises NotFound for a checkpoint that is not there. A seal made meanwhile allows events to be
        deleted during the check: a verdict with findings is then void, and the log is checked again from that seal.
        """
        async with self._turn:
            for _ in range(MAX_RUNS - 1):
                verdict = await self._run(from_checkpoint)
                newest, _ = await self._seals.newest()
                if verdict["ok"] or verdict["from_seal"] == (None if newest is None else newest["number"]):
                    return verdict
            return await self._run(from_checkpoint)

    async def _run(self, from_checkpoint: int | None) -> dict[str, Any]:
        # 1. what is remembered elsewhere, before what is to be checked by it
        known_number, known_ends = await self._checkpoints.known_number(), await self._heads.known()
        async with self._database.begin() as conn:
            keys = await load_public_keys(conn)
        # 2. admin's own key comes out of its seal, not from the table an attacker can write
        own = self._auditor.key.public_key()
        seal, findings = await self._seals.newest()
        failpoint("admin.audit_verify_begun")
        if keys.get(ADMIN_CHAIN) != own.public_bytes_raw():
            findings.append(Finding("wrong_key", ADMIN_CHAIN, 0, "its public key was replaced"))
        # 3. where it begins: the newest seal, or the checkpoint of an earlier check
        sealed = None if seal is None else seal["checkpoint"]
        began = sealed
        if from_checkpoint is not None:
            if sealed is not None and from_checkpoint < sealed["number"]:
                raise NotFound(f"the log begins at checkpoint {sealed['number']}: what was before is archived")
            began = await find_checkpoint(self._database, from_checkpoint)
            if not is_signed_by(began, own):
                findings.append(
                    Finding("changed", CHECKPOINTS, began["number"], "its signature does not fit what it says")
                )
        if began is not None:
            findings += await self._look_back(began, {} if sealed is None else _ends(sealed))
        checker = Checker({**keys, ADMIN_CHAIN: own.public_bytes_raw()}, began=began)
        # 4. in threads and in pieces: checking a thousand takes longer than a request may wait
        async for checkpoints in walk_checkpoints(self._database, 0 if began is None else began["number"]):
            await asyncio.to_thread(_add_all, checker.add_checkpoint, checkpoints)
        async for events in walk_events(self._database, Filters(), {} if began is None else _ends(began)):
            await asyncio.to_thread(_add_all, checker.add, events)
        last = checker.last
        findings += await asyncio.to_thread(checker.finish, known_number=known_number, known_ends=known_ends)
        return {
            "ok": not findings,
            "events": checker.events,
            "chains": {chain: fingerprint(key) for chain, key in sorted(keys.items())},
            "checkpoints": checker.checkpoints,
            "from_checkpoint": from_checkpoint,
            "from_seal": None if seal is None else seal["number"],
            "last_checkpoint": last["number"] if last is not None else None,
            "findings": [asdict(one) for one in findings],
        }

    async def _look_back(self, began: Signed, kept_from: dict[str, int]) -> list[Finding]:
        """Whether what an earlier check has seen is still there, as far as counting tells; the ends to the byte. What a seal
        covers may be gone, but for the last event of each chain: `kept_from`."""
        found = []
        for chain, seq in sorted(_ends(began).items()):
            first = max(1, kept_from.get(chain, 1))
            there = await count_events(self._database, chain, first - 1, seq)
            if there < seq - first + 1:
                what = f"of {seq - first + 1} events before checkpoint {began['number']} there are {there}"
                found.append(Finding("deleted", chain, 0, what))
            async with self._database.begin() as conn:
                event = await find_event(conn, chain, seq)
            if event is None or hash_of(event) != began["heads"][chain]["hash"]:
                found.append(Finding("changed", chain, seq, f"checkpoint {began['number']} saw another event here"))
        return found


def _ends(checkpoint: Signed) -> dict[str, int]:
    return {chain: head["seq"] for chain, head in checkpoint["heads"].items()}


def _add_all(add: Callable[[Signed], None], values: list[Signed]) -> None:
    for value in values:
        add(value)
