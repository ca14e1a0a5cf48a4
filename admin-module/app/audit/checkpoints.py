"""Checkpoints: every minute admin signs the heads of all chains. They are stored and logged, so that cutting
a chain shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import orjson
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.audit.event import GENESIS, Signed, canonical, fingerprint, hash_of, sign
from artstore.clock import Clock, parse_rfc3339, rfc3339
from artstore.database import Database
from artstore.errors import NotFound
from artstore.logs import get_logger

from ..core.redis import load_checkpoint_number, store_checkpoint_number
from .chain import Auditor
from .read import ROW_COLUMNS, to_event

log = get_logger("admin.checkpoints")

CHECKPOINT_LOCK = 0x6172_7473_0005
EPOCH = "1970-01-01T00:00:00.000000Z"
SLACK = 0.9
"""With several admins, only the first per period writes: a checkpoint younger than this part of a period is
new enough."""

_LOCK = text("SELECT pg_advisory_xact_lock(:lock)")
_LAST = text("SELECT number, body FROM audit_checkpoints ORDER BY number DESC LIMIT 1")
_KEYS = text("SELECT chain, public_key FROM audit_keys ORDER BY chain")
_HEADS = text(
    f"""SELECT {ROW_COLUMNS} FROM audit_keys AS k CROSS JOIN LATERAL
    (SELECT * FROM audit_events WHERE audit_events.chain = k.chain ORDER BY seq DESC LIMIT 1) AS e"""
)
_INSERT = text("INSERT INTO audit_checkpoints (number, body) VALUES (:number, :body)")
_PAGE = text(
    """SELECT number, body FROM audit_checkpoints WHERE number < CAST(:before AS bigint) ORDER BY number DESC LIMIT :limit"""
)
_NEXT = text(
    """SELECT number, body FROM audit_checkpoints WHERE number > :after AND number <= :until ORDER BY number LIMIT :limit"""
)
CHECKPOINT_BATCH = 500
MAX_NUMBER = 2**63 - 1


class Checkpoints:
    """One per process. Remembers, as Redis does, the newest number that was signed: a table that ends earlier
    was cut."""

    def __init__(self, database: Database, redis: Redis, auditor: Auditor, clock: Clock, every_s: float) -> None:
        self._database, self._redis, self._auditor, self._clock = database, redis, auditor, clock
        self._every = timedelta(seconds=every_s)
        self._signed = 0

    async def write(self) -> None:
        """The periodic task. Writes nothing when another admin has just done so."""
        async with self._database.begin() as conn:
            await conn.execute(_LOCK, {"lock": CHECKPOINT_LOCK})
            checkpoint = await self._next(conn)
            if checkpoint is None:
                return
            await conn.execute(_INSERT, {"number": checkpoint["number"], "body": canonical(checkpoint).decode()})
        self._signed = max(self._signed, checkpoint["number"])
        log.info("audit checkpoint", checkpoint=checkpoint, hash=hash_of(checkpoint))
        try:
            await store_checkpoint_number(self._redis, checkpoint["number"])
        except RedisError as error:
            log.warning("checkpoint number not stored in redis", error=str(error))

    async def known_number(self) -> int:
        """The newest checkpoint number that this process or Redis remembers."""
        try:
            kept = await load_checkpoint_number(self._redis)
        except RedisError:
            kept = 0
        return max(self._signed, kept)

    async def _next(self, conn: AsyncConnection) -> Signed | None:
        now = self._clock.now()
        row = (await conn.execute(_LAST)).first()
        last = None if row is None else _read(row.number, row.body)
        if last is not None and now - parse_rfc3339(last["timestamp"]) < self._every * SLACK:
            return None
        keys = {row.chain: fingerprint(row.public_key) for row in await conn.execute(_KEYS)}
        heads = [to_event(row) for row in (await conn.execute(_HEADS)).mappings()]
        checkpoint: Signed = {
            "type": "checkpoint",
            "number": 1 if last is None else last["number"] + 1,
            "timestamp": rfc3339(now),
            "prev": GENESIS if last is None else hash_of(last),
            "heads": {
                head["chain"]: {"seq": head["seq"], "hash": hash_of(head), "key": keys[head["chain"]]} for head in heads
            },
        }
        return {**checkpoint, "signature": sign(checkpoint, self._auditor.key)}


async def list_checkpoints(conn: AsyncConnection, before: int, limit: int) -> list[Signed]:
    """Newest first, starting below the number `before`."""
    rows = (await conn.execute(_PAGE, {"before": before, "limit": limit})).all()
    return await asyncio.to_thread(_read_all, rows)


async def walk_checkpoints(database: Database, after: int = 0, until: int = MAX_NUMBER) -> AsyncIterator[list[Signed]]:
    """Checkpoints with numbers above `after` up to `until`, in order. Read and parsed (in a thread) in
    pieces, so that memory stays constant."""
    while True:
        async with database.begin() as conn:
            rows = (await conn.execute(_NEXT, {"after": after, "until": until, "limit": CHECKPOINT_BATCH})).all()
        if rows:
            yield await asyncio.to_thread(_read_all, rows)
        if len(rows) < CHECKPOINT_BATCH:
            return
        after = rows[-1].number


async def find_checkpoint(database: Database, number: int) -> Signed:
    """Raises NotFound."""
    async for page in walk_checkpoints(database, number - 1, number):
        return page[0]
    raise NotFound(f"checkpoint {number} does not exist")


def end_seqs(checkpoint: Signed) -> dict[str, int]:
    """The last `seq` of each chain that the checkpoint names."""
    return {chain: head["seq"] for chain, head in checkpoint["heads"].items()}


def _read_all(rows: Sequence[Any]) -> list[Signed]:
    return [_read(row.number, row.body) for row in rows]


def _read(number: int, body: str) -> Signed:
    """An unreadable checkpoint is returned as an unsigned one, so that the check reports it and continues."""
    try:
        checkpoint = orjson.loads(body)
        msgspec.convert(checkpoint, _Shape)
    except (ValueError, msgspec.ValidationError):
        checkpoint = {}
    if checkpoint.get("number") == number:
        whole: Signed = checkpoint
        return whole
    return {"number": number, "timestamp": EPOCH, "prev": "", "heads": {}, "signature": ""}


class _Head(msgspec.Struct):
    seq: int
    hash: str
    key: str


class _Shape(msgspec.Struct):
    number: int
    timestamp: datetime
    prev: str
    heads: dict[str, _Head]
    signature: str
