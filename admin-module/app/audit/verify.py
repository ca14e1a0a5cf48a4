"""Verifies the audit log in PostgreSQL: all of it, or the part after a checkpoint."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from artstore.audit.check import ADMIN_CHAIN, CHECKPOINTS, Checker, Finding
from artstore.audit.event import Signed, fingerprint, hash_of, is_signed_by
from artstore.clock import Clock
from artstore.database import Database
from artstore.errors import NotFound
from artstore.failpoints import failpoint
from artstore.logs import get_logger

from ..core.redis import release_verification, renew_verification, take_verification
from .chain import Auditor
from .checkpoints import Checkpoints, end_seqs, find_checkpoint, walk_checkpoints
from .read import Filters, count_events, find_event, load_public_keys, walk_events
from .seals import Seals
from .truncation import TruncationMonitor
from .verified import VerifiedStore

log = get_logger("admin.verify")

MAX_RUNS = 3
"""Runs of one verification. Seals are made every few months, so a seal during every run is not expected."""
DUE_CHECK_EVERY_S = 10.0
FIRST_AFTER_S = 300.0
"""An admin that has just started serves first and verifies later."""
REST_PER_WORK = 9.0
"""Periodic verification works a tenth of the time: a million events take half an hour and a tenth of a core."""
LEASE_S = 600
"""After the admin that verifies has died or failed, another one begins within this time."""

MAX_LOGGED = 20
"""Findings in one log line."""

Rest = Callable[[], Awaitable[None]]


async def _no_rest() -> None:
    pass


class Verification:
    """One per process. Runs one requested check at a time, because a check occupies a core."""

    def __init__(
        self,
        database: Database,
        auditor: Auditor,
        checkpoints: Checkpoints,
        truncation: TruncationMonitor,
        seals: Seals,
        verified: VerifiedStore,
    ) -> None:
        self._database, self._auditor, self._checkpoints, self._truncation = database, auditor, checkpoints, truncation
        self._seals, self._verified = seals, verified
        self._turn = asyncio.Lock()

    async def run(self, from_checkpoint: int | None = None) -> dict[str, Any]:
        """{"ok", "events", "chains", "checkpoints", "from_checkpoint", "from_seal", "last_checkpoint",
        "findings": [{"what", "chain", "seq", "detail"}]}. With `from_checkpoint`, events before it are only
        counted, because an earlier check has verified them.

        Takes 0.1 ms per event. A seal made during the check allows events to be deleted meanwhile. Findings
        are then not valid, and the log is checked again from that seal. Raises NotFound for an unknown
        checkpoint.
        """
        async with self._turn:
            return await self.run_resting(from_checkpoint, _no_rest)

    async def run_resting(self, from_checkpoint: int | None, rest: Rest) -> dict[str, Any]:
        """As `run`, but awaits `rest` after each page and does not wait for other checks."""
        verdict = await self._run_until_valid(from_checkpoint, rest)
        await self._verified.record(verdict)
        return verdict

    async def _run_until_valid(self, from_checkpoint: int | None, rest: Rest) -> dict[str, Any]:
        for _ in range(MAX_RUNS - 1):
            verdict = await self._run(from_checkpoint, rest)
            newest, _ = await self._seals.newest()
            if verdict["ok"] or verdict["from_seal"] == (None if newest is None else newest["number"]):
                return verdict
        return await self._run(from_checkpoint, rest)

    async def _run(self, from_checkpoint: int | None, rest: Rest) -> dict[str, Any]:
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
            findings += await self._check_earlier(start, {} if sealed is None else end_seqs(sealed), rest)
        checker = Checker({**keys, ADMIN_CHAIN: own.public_bytes_raw()}, began=start)
        # 4. check in threads and in pieces: a thousand events take longer than other requests may wait
        async for checkpoints in walk_checkpoints(self._database, 0 if start is None else start["number"]):
            await asyncio.to_thread(_add_all, checker.add_checkpoint, checkpoints)
            await rest()
        async for events in walk_events(self._database, Filters(), {} if start is None else end_seqs(start)):
            await asyncio.to_thread(_add_all, checker.add, events)
            await rest()
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

    async def _check_earlier(self, start: Signed, kept_from: dict[str, int], rest: Rest) -> list[Finding]:
        """Compares the number of events before the start, and the last event of each chain byte by byte.

        Events below a seal may be deleted, except the last event of each chain (`kept_from`).
        """
        found = []
        for chain, seq in sorted(end_seqs(start).items()):
            first = max(1, kept_from.get(chain, 1))
            there = await count_events(self._database, chain, first - 1, seq, rest)
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


class PeriodicVerification:
    """One per process. Once per period one of the admins verifies the log from the checkpoint at which the last
    verification ended, and sometimes the whole log. The lease in Redis only saves work: without it, or without
    Redis, several admins may verify at the same time."""

    def __init__(
        self, verification: Verification, verified: VerifiedStore, redis: Redis, clock: Clock, every_s: float
    ) -> None:
        self._verification, self._verified, self._redis = verification, verified, redis
        self._clock, self._every_s = clock, every_s
        self._first_s = clock.monotonic_s() + min(every_s, FIRST_AFTER_S)
        self._rested_s = 0.0

    async def run_if_due(self) -> None:
        """The periodic task. Also takes over the result of another admin. Raises Unavailable."""
        verified = await self._verified.load()
        now = int(self._clock.unix_s())
        # a time in the future, by a clock that was wrong, does not put the verification off
        due = not 0 <= now - verified.at < self._every_s and self._clock.monotonic_s() >= self._first_s
        if due and await self._take_lease():
            await self._run(verified.next_start(now))

    async def _run(self, start: int | None) -> None:
        self._rested_s = time.monotonic()
        try:
            verdict = await self._verification.run_resting(start, self._rest)
        except NotFound:  # PostgreSQL was restored, or the checkpoint is below a new seal
            verdict = await self._verification.run_resting(None, self._rest)
        counts = {name: verdict[name] for name in ("events", "from_checkpoint", "last_checkpoint")}
        if verdict["ok"]:
            log.info("audit log verified", **counts)
        else:
            log.error("the audit log was changed", findings=verdict["findings"][:MAX_LOGGED], **counts)
        try:
            await release_verification(self._redis)
        except RedisError as error:
            log.warning("lease of the audit verification not released", error=str(error))

    async def _take_lease(self) -> bool:
        try:
            return await take_verification(self._redis, LEASE_S)
        except RedisError:
            return True

    async def _rest(self) -> None:
        await asyncio.sleep(REST_PER_WORK * (time.monotonic() - self._rested_s))
        with suppress(RedisError):
            await renew_verification(self._redis, LEASE_S)
        self._rested_s = time.monotonic()
