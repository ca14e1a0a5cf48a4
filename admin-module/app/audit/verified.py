"""The result of the last verification of the audit log, shared by all admins: how far the log is verified, and
the findings.

It is kept in Redis and in memory, signed with admin's key. If it is lost or changed, the next periodic
verification begins at the newest seal.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import orjson
from prometheus_client import CollectorRegistry, Gauge
from redis.asyncio import Redis
from redis.exceptions import RedisError

from artstore.audit.event import is_signed_by, sign
from artstore.clock import Clock
from artstore.logs import get_logger

from ..core.redis import load_verified, store_verified
from .chain import Auditor

log = get_logger("admin.verified")

WHOLE_EVERY_S = 30 * 24 * 3600
"""A verification from a checkpoint only counts the events before it, so the whole log is verified this often."""
TYPE = "verification"
"""Distinguishes its signature from that of a checkpoint or a seal."""


class Verified(msgspec.Struct, frozen=True):
    """Times in seconds since 1970. `checkpoint`: the log is verified up to it; 0 before the first verification."""

    at: int = 0
    whole_at: int = 0
    checkpoint: int = 0
    findings: int = 0

    def next_start(self, now: int) -> int | None:
        """The checkpoint from which the next periodic verification begins, or None for the whole log."""
        return self.checkpoint if self.checkpoint and 0 <= now - self.whole_at < WHOLE_EVERY_S else None

    def after(self, verdict: dict[str, Any], now: int) -> Verified:
        """The state after a verification. With findings the start does not move forward, so that the next
        verification has them again; one without findings clears them only if it began at or before the start."""
        start, findings = verdict["from_checkpoint"], len(verdict["findings"])
        if findings and start is None:
            return Verified(at=now, findings=findings)
        if findings:
            return Verified(now, self.whole_at, min(start, self.checkpoint), findings)
        if start is None:
            return Verified(now, now, verdict["last_checkpoint"] or 0)
        if start <= self.checkpoint:
            return Verified(now, self.whole_at, verdict["last_checkpoint"] or 0)
        return self


class VerifiedStore:
    """One per process. Keeps the gauges up to date with what any admin has found."""

    def __init__(self, redis: Redis, auditor: Auditor, clock: Clock, registry: CollectorRegistry) -> None:
        self._redis, self._auditor, self._clock = redis, auditor, clock
        self._known = Verified()
        self._write = asyncio.Lock()
        findings = Gauge(
            "audit_verification_findings",
            "Findings of the last verification of the audit log by any admin; 0 before the first",
            registry=registry,
        )
        findings.set_function(lambda: self._known.findings)
        at = Gauge(
            "audit_last_verification_timestamp_seconds",
            "When the last verification of the audit log by any admin ended, in seconds since 1970; 0: not known",
            registry=registry,
        )
        at.set_function(lambda: self._known.at)

    async def load(self) -> Verified:
        """The newest result that this process or Redis has. Raises Unavailable before the chain is open."""
        try:
            kept = self._read(await load_verified(self._redis))
        except RedisError:
            kept = Verified()
        self._known = max(self._known, kept, key=lambda one: one.at)
        return self._known

    async def record(self, verdict: dict[str, Any]) -> None:
        """Notes the result of a verification."""
        async with self._write:
            self._known = (await self.load()).after(verdict, int(self._clock.unix_s()))
            body = {"type": TYPE, **msgspec.structs.asdict(self._known)}
            signed = {**body, "signature": sign(body, self._auditor.key)}
            try:
                await store_verified(self._redis, orjson.dumps(signed))
            except RedisError as error:
                log.warning("result of the audit verification not stored in redis", error=str(error))

    def _read(self, kept: bytes | str | None) -> Verified:
        try:
            signed = orjson.loads(kept or b"{}")
            if signed.get("type") == TYPE and is_signed_by(signed, self._auditor.key.public_key()):
                return msgspec.convert(signed, Verified)
        except (ValueError, AttributeError, msgspec.ValidationError):
            log.warning("the kept result of the audit verification is unreadable")
        return Verified()
