"""Verifies the audit log in PostgreSQL: all of it, or the part after a checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from prometheus_client import CollectorRegistry, Gauge

from artstore.audit.check import ADMIN_CHAIN, CHECKPOINTS, Checker, Finding
from artstore.audit.event import Signed, fingerprint, hash_of, is_signed_by
from artstore.database import Database
from artstore.errors import NotFound
from artstore.failpoints import failpoint

from .chain import Auditor
from .checkpoints import Checkpoints, end_seqs, find_checkpoint, walk_checkpoints
from .read import Filters, count_events, find_event, load_public_keys, walk_events
from .seals import Seals
from .truncation import TruncationMonitor

MAX_RUNS = 3
"""Runs of one verification. Seals are made every few months, so a seal during every run is not expected."""


class Verification:
    """One per process. Runs one check at a time, because a check occupies a core."""

    def __init__(
        self,
        database: Database,
        auditor: Auditor,
        checkpoints: Checkpoints,
        truncation: TruncationMonitor,
        seals: Seals,
        registry: CollectorRegistry,
    ) -> None:
        self._database, self._auditor, self._checkpoints, self._truncation = database, auditor, checkpoints, truncation
        self._seals = seals
        self._turn = asyncio.Lock()
        self._findings = Gauge(
            "audit_verification_findings",
            "Findings of the last verification of the audit log by this process; 0 before the first",
            registry=registry,
        )

    async def run(self, from_checkpoint: int | None = None) -> dict[str, Any]:
        """{"ok", "events", "chains", "checkpoints", "from_checkpoint", "from_seal", "last_checkpoint",
        "findings": [{"what", "chain", "seq", "detail"}]}. With `from_checkpoint`, events before it are only
        counted, because an earlier check has verified them.

        Takes 0.1 ms per event. A seal made during the check allows events to be deleted meanwhile. Findings
        are then not valid, and the log is checked again from that seal. Raises NotFound for an unknown
        checkpoint.
        """
        async with self._turn:
            verdict = await self._run_until_valid(from_checkpoint)
            self._findings.set(len(verdict["findings"]))
            return verdict

    async def _run_until_valid(self, from_checkpoint: int | None) -> dict[str, Any]:
        for _ in range(MAX_RUNS - 1):
            verdict = await self._run(from_checkpoint)
            newest, _ = await self._seals.newest()
            if verdict["ok"] or verdict["from_seal"] == (None if newest is None else newest["number"]):
                return verdict
        return await self._run(from_checkpoint)

    async def _run(self, from_checkpoint: int | None) -> dict[str, Any]:
        # 1. read what is remembered outside PostgreSQL, before the rows that are compared with it
        known_number, known_ends = await self._checkpoints.known_number(), await self._truncation.load_ends()
        async with self._database.begin() as conn:
            keys = await load_public_keys(conn)
        # 2. take admin's own key from memory, not from the table, which an attacker may have changed
        own = self._auditor.key.public_key()
        seal, findings = await self._seals.newest()
        failpoint("admin.audit_verify_begun")
        if keys.get(ADMIN_CHAIN) != own.public_bytes_raw():
            findings.append(Finding("wrong_key", ADMIN_CHAIN, 0, "its public key was replaced"))
        # 3. find the start: the newest seal, or the checkpoint of an earlier check
        sealed = None if seal is None else seal["checkpoint"]
        start = sealed
        if from_checkpoint is not None:
            if sealed is not None and from_checkpoint < sealed["number"]:
                raise NotFound(f"the log begins at checkpoint {sealed['number']}: earlier events are archived")
            start = await find_checkpoint(self._database, from_checkpoint)
            if not is_signed_by(start, own):
                findings.append(
                    Finding("changed", CHECKPOINTS, start["number"], "its signature does not match its content")
                )
        if start is not None:
            findings += await self._check_earlier(start, {} if sealed is None else end_seqs(sealed))
        checker = Checker({**keys, ADMIN_CHAIN: own.public_bytes_raw()}, began=start)
        # 4. check in threads and in pieces: a thousand events take longer than other requests may wait
        async for checkpoints in walk_checkpoints(self._database, 0 if start is None else start["number"]):
            await asyncio.to_thread(_add_all, checker.add_checkpoint, checkpoints)
        async for events in walk_events(self._database, Filters(), {} if start is None else end_seqs(start)):
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

    async def _check_earlier(self, start: Signed, kept_from: dict[str, int]) -> list[Finding]:
        """Compares the number of events before the start, and the last event of each chain byte by byte.

        Events below a seal may be deleted, except the last event of each chain (`kept_from`).
        """
        found = []
        for chain, seq in sorted(end_seqs(start).items()):
            first = max(1, kept_from.get(chain, 1))
            there = await count_events(self._database, chain, first - 1, seq)
            if there < seq - first + 1:
                what = f"only {there} of {seq - first + 1} events before checkpoint {start['number']} exist"
                found.append(Finding("deleted", chain, 0, what))
            async with self._database.begin() as conn:
                event = await find_event(conn, chain, seq)
            if event is None or hash_of(event) != start["heads"][chain]["hash"]:
                found.append(Finding("changed", chain, seq, f"checkpoint {start['number']} saw a different event here"))
        return found


def _add_all(add: Callable[[Signed], None], values: list[Signed]) -> None:
    for value in values:
        add(value)
