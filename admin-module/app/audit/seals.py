"""Archives old parts of the audit log: archive (export up to a checkpoint) → seal → prune.

    archive   a file that is determined by the rows alone: the same bytes at every request
    seal      admin reads the part again, checks it, and signs the checkpoint with the archive's SHA-256
    prune     rows below the newest seal are deleted in batches, each with its audit event in one transaction

The log verifies after a crash at any step. Before the seal nothing has changed. After it, chains are checked
from the seal on, whichever rows below it are already deleted, and the next prune continues. The last event of
each chain and the sealed checkpoint are never deleted.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.audit.check import ADMIN_CHAIN, Checker, Finding
from artstore.audit.event import Event, Signed, canonical
from artstore.audit.seal import check_seals, make_seal
from artstore.clock import Clock, rfc3339
from artstore.database import Database
from artstore.errors import Conflict, NotFound
from artstore.failpoints import failpoint

from ..database_roles import PRUNER
from .chain import Auditor
from .checkpoints import end_seqs, find_checkpoint, walk_checkpoints
from .read import Filters, key_line, load_public_keys, ndjson, walk_events

SEAL_LOCK = 0x6172_7473_0007
PRUNE_BATCH = 5_000
PRUNE_BATCHES = 20
"""Batches of one request, so that it ends within seconds. The client repeats it while `left` is true."""
PAUSE_S = 0.05
NDJSON = "application/x-ndjson"

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
    """One per process. Checks one archive at a time, because a check occupies a core."""

    def __init__(self, database: Database, auditor: Auditor, clock: Clock) -> None:
        self._database, self._auditor, self._clock = database, auditor, clock
        self._turn = asyncio.Lock()

    async def load(self) -> list[Signed]:
        """All seals, in order; there is one for each archive."""
        async with self._database.begin() as conn:
            return await _load(conn)

    async def newest(self) -> tuple[Signed | None, list[Finding]]:
        """The newest seal with a valid signature, and findings about all seals."""
        return check_seals(await self.load(), self._auditor.key.public_key())

    async def archive(self, checkpoint: Signed, checker: Checker | None = None) -> AsyncIterator[bytes]:
        """NDJSON of everything after the newest seal, up to `checkpoint`. Feeds `checker` with the same
        events."""
        last, _ = await self.newest()
        before, until = {} if last is None else end_seqs(last["checkpoint"]), end_seqs(checkpoint)
        first = 0 if last is None else last["checkpoint"]["number"]
        async with self._database.begin() as conn:
            keys = await load_public_keys(conn)
        head: Signed = {"type": "archive", "whole": True, "from": first, "until": checkpoint["number"]}
        lines = [key_line(chain, keys[chain]) for chain in sorted(until) if chain in keys]
        yield ndjson([head, *([last] if last else []), *lines])
        async for page in walk_checkpoints(self._database, first, checkpoint["number"]):
            yield await asyncio.to_thread(_feed, page, checker and checker.add_checkpoint)
        async for page in walk_events(self._database, Filters(), before, until):
            yield await asyncio.to_thread(_feed, page, checker and checker.add)
        failpoint("admin.audit_archived")

    async def seal(self, number: int, sha256: str, by: str) -> Signed:
        """Sealing the same archive again returns its existing seal.

        Raises NotFound for an unknown checkpoint, Conflict when the archive does not verify or has a
        different SHA-256.
        """
        async with self._turn:
            last, findings = await self.newest()
            if findings:
                raise Conflict(f"the seals are damaged: {findings[0].detail}")
            if last is not None and last["checkpoint"]["number"] >= number:
                if (last["checkpoint"]["number"], last["archive"]["sha256"]) == (number, sha256):
                    return last
                raise Conflict(f"checkpoint {last['checkpoint']['number']} is already sealed")
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
                    f"the archive does not verify: {findings[0].what}: {findings[0].chain} {findings[0].seq}"
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
                raise Conflict("another seal was created at the same time")
            await conn.execute(_INSERT, {"number": seal["number"], "body": canonical(seal).decode()})
            metadata = {"checkpoint": seal["checkpoint"]["number"], **seal["archive"]}
            await self._auditor.record(conn, Event("audit:seal", by, str(seal["number"]), metadata=metadata))
            failpoint("admin.audit_seal_written")

    async def prune(self, number: int, by: str) -> dict[str, Any]:
        """Delete rows below the newest seal, which the caller must name. Returns {"deleted", "left"}; repeat
        while `left`."""
        seal, findings = await self.newest()
        if seal is None or findings or seal["number"] != number:
            raise NotFound(f"seal {number} is not the newest seal")
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
        """One transaction: deletes rows and records that in the audit log."""
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
                await self._auditor.record(conn, Event("audit:prune", by, str(seal["number"]), metadata=metadata))
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


def _feed(page: list[Signed], add: Any) -> bytes:
    if add is not None:
        for value in page:
            add(value)
    return ndjson(page)


async def export(database: Database, seals: Seals, clock: Clock, filters: Filters) -> AsyncIterator[bytes]:
    """The log as NDJSON with everything that `artstore audit verify FILE` needs to check it offline.

    Lines: one {"type": "export"}, the newest {"type": "seal"} if there is one, then {"type": "key"} and
    {"type": "checkpoint"}, then the events as they were signed, chain by chain. With a seal the log begins
    after it. With filters there are no checkpoints, because gaps in a part of the log are expected.

    Raises Conflict, which aborts the answer, when a seal was made meanwhile: events below it may have been
    deleted before they were read, and the export would look damaged.
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
