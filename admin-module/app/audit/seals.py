"""Archiving old stretches of the audit log: archive (export up to a checkpoint) → seal → prune.

    archive   a file that follows from the rows alone: the same bytes whenever it is asked for
    seal      admin reads the stretch again, checks it, and signs the checkpoint with the archive's SHA-256
    prune     rows below the newest seal are deleted in batches, each with its audit event in one transaction

A crash after any step leaves a whole log: before the seal nothing has changed; after it the chains are checked from the seal on,
whatever part of the rows below is deleted; the next prune goes on. The last event of each chain and the sealed checkpoint stay.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.audit.check import ADMIN_CHAIN, Checker, Finding
from artstore.audit.event import Event, Signed, canonical
from artstore.audit.seal import check_seals, make_seal
from artstore.clock import Clock
from artstore.database import Database
from artstore.errors import Conflict, NotFound
from artstore.failpoints import failpoint

from ..database_roles import PRUNER
from .chain import Auditor
from .checkpoints import find_checkpoint, walk_checkpoints
from .read import Filters, load_public_keys, walk_events

SEAL_LOCK = 0x6172_7473_0007
PRUNE_BATCH = 5_000
PRUNE_BATCHES = 20
"""Of one request: it ends within seconds, and is sent again while `left` is true."""
PAUSE_S = 0.05

_LOCK = text("SELECT pg_advisory_xact_lock(:lock)")
_ALL = text("SELECT number, body FROM audit_seals ORDER BY number")
_INSERT = text("INSERT INTO audit_seals (number, body) VALUES (:number, :body)")
_MAY_DELETE = text("SELECT has_table_privilege('audit_events', 'DELETE')")
_PRUNE_EVENTS = text(
    """DELETE FROM audit_events WHERE ctid = ANY(ARRAY(SELECT ctid FROM audit_events
    WHERE chain = :chain AND seq < :seq ORDER BY seq LIMIT :batch))"""
)
_PRUNE_CHECKPOINTS = text(
    """DELETE FROM audit_checkpoints WHERE ctid = ANY(ARRAY(SELECT ctid FROM audit_checkpoints
    WHERE number < :number ORDER BY number LIMIT :batch))"""
)


class Seals:
    """One per process. One archive is checked at a time: each takes a core for as long as it lasts."""

    def __init__(self, database: Database, auditor: Auditor, clock: Clock) -> None:
        self._database, self._auditor, self._clock = database, auditor, clock
        self._turn = asyncio.Lock()

    async def load(self) -> list[Signed]:
        """All of them; there is one for each archive."""
        async with self._database.begin() as conn:
            return await _load(conn)

    async def newest(self) -> tuple[Signed | None, list[Finding]]:
        """The newest seal that admin has signed, and what is wrong with any."""
        return check_seals(await self.load(), self._auditor.key.public_key())

    async def archive(self, checkpoint: Signed, checker: Checker | None = None) -> AsyncIterator[bytes]:
        """NDJSON of everything after the newest seal, up to `checkpoint`; given to `checker` on the way."""
        last, _ = await self.newest()
        before, until = _heads(last), {chain: head["seq"] for chain, head in checkpoint["heads"].items()}
        first = 0 if last is None else last["checkpoint"]["number"]
        async with self._database.begin() as conn:
            keys = await load_public_keys(conn)
        head: Signed = {"type": "archive", "whole": True, "from": first, "until": checkpoint["number"]}
        lines = [
            {"type": "key", "chain": chain, "public_key": _base64(keys[chain])}
            for chain in sorted(until)
            if chain in keys
        ]
        yield _ndjson([head, *([last] if last else []), *lines])
        async for page in walk_checkpoints(self._database, first, checkpoint["number"]):
            yield await asyncio.to_thread(_pass, page, checker and checker.add_checkpoint)
        async for page in walk_events(self._database, Filters(), before, until):
            yield await asyncio.to_thread(_pass, page, checker and checker.add)
        failpoint("admin.audit_archived")

    async def seal(self, number: int, sha256: str, by: str) -> Signed:
        """Raises NotFound for a checkpoint that is not there, Conflict when the archive does not verify or is another one.

        Sealing the same archive again gives the seal that is there.
        """
        async with self._turn:
            last, findings = await self.newest()
            if findings:
                raise Conflict(f"the seals are damaged: {findings[0].detail}")
            if last is not None and last["checkpoint"]["number"] >= number:
                if (last["checkpoint"]["number"], last["archive"]["sha256"]) == (number, sha256):
                    return last
                raise Conflict(f"checkpoint {last['checkpoint']['number']} is sealed already")
            checkpoint = await find_checkpoint(self._database, number)
            async with self._database.begin() as conn:
                keys = await load_public_keys(conn)
            own = self._auditor.key.public_key().public_bytes_raw()
            began = None if last is None else last["checkpoint"]
            checker, digest = Checker({**keys, ADMIN_CHAIN: own}, began=began), hashlib.sha256()
            async for part in self.archive(checkpoint, checker):
                digest.update(part)
            findings = await asyncio.to_thread(checker.finish)
            if findings:
                raise Conflict(
                    f"the stretch does not verify: {findings[0].what}: {findings[0].chain} {findings[0].seq}"
                )
            if digest.hexdigest() != sha256:
                raise Conflict(f"the archive's SHA-256 is {digest.hexdigest()}, not {sha256}")
            seal = make_seal(last, checkpoint, sha256, checker.events, self._clock.now(), self._auditor.key)
            await self._keep(seal, by)
            failpoint("admin.audit_sealed")
            return seal

    async def _keep(self, seal: Signed, by: str) -> None:
        async with self._database.begin() as conn:
            await conn.execute(_LOCK, {"lock": SEAL_LOCK})
            if len(await _load(conn)) != seal["number"] - 1:
                raise Conflict("another seal was made meanwhile")
            await conn.execute(_INSERT, {"number": seal["number"], "body": canonical(seal).decode()})
            metadata = {"checkpoint": seal["checkpoint"]["number"], **seal["archive"]}
            await self._auditor.record(conn, Event("audit.seal", by, str(seal["number"]), metadata=metadata))
            failpoint("admin.audit_seal_written")

    async def prune(self, number: int, by: str) -> dict[str, Any]:
        """Deletes rows below the newest seal, whose number the caller must name. {"deleted", "left"}; again while `left`."""
        seal, findings = await self.newest()
        if seal is None or findings or seal["number"] != number:
            raise NotFound(f"seal {number} is not the newest one")
        deleted = 0
        for _ in range(PRUNE_BATCHES):
            batch = await self._prune_batch(seal, by)
            failpoint("admin.audit_pruned")
            deleted += batch
            if batch == 0:
                return {"deleted": deleted, "left": False}
            await asyncio.sleep(PAUSE_S)
        return {"deleted": deleted, "left": True}

    async def _prune_batch(self, seal: Signed, by: str) -> int:
        """One transaction: rows of one table, and the event that says so."""
        async with self._database.begin() as conn:
            await conn.execute(_LOCK, {"lock": SEAL_LOCK})
            switched = not await conn.scalar(_MAY_DELETE)
            if switched:
                await conn.execute(text(f"SET LOCAL ROLE {PRUNER}"))
            events, checkpoints = 0, 0
            for chain, head in sorted(seal["checkpoint"]["heads"].items()):
                values = {"chain": chain, "seq": head["seq"], "batch": PRUNE_BATCH - events}
                events += (await conn.execute(_PRUNE_EVENTS, values)).rowcount
                if events >= PRUNE_BATCH:
                    break
            else:
                values = {"number": seal["checkpoint"]["number"], "batch": PRUNE_BATCH}
                checkpoints = (await conn.execute(_PRUNE_CHECKPOINTS, values)).rowcount
            if switched:
                await conn.execute(text("RESET ROLE"))
            if events + checkpoints:
                metadata = {"events": events, "checkpoints": checkpoints}
                await self._auditor.record(conn, Event("audit.prune", by, str(seal["number"]), metadata=metadata))
                failpoint("admin.audit_prune_written")
            return events + checkpoints


async def _load(conn: AsyncConnection) -> list[Signed]:
    return [_read(row.number, row.body) for row in await conn.execute(_ALL)]


def _read(number: int, body: str) -> Signed:
    try:
        seal = orjson.loads(body)
    except orjson.JSONDecodeError:
        seal = None
    return seal if isinstance(seal, dict) and seal.get("number") == number else {"number": number}


def _heads(seal: Signed | None) -> dict[str, int]:
    return {} if seal is None else {chain: head["seq"] for chain, head in seal["checkpoint"]["heads"].items()}


def _pass(page: list[Signed], add: Any) -> bytes:
    if add is not None:
        for value in page:
            add(value)
    return _ndjson(page)


def _ndjson(values: list[Signed]) -> bytes:
    return b"".join(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE) for value in values)


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
