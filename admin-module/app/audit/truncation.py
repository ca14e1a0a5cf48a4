"""Detects chains that were cut between two checkpoints: compares their ends with the last ones that were
seen, and alerts.

The ends are remembered by this process and, through Redis, by all admins. To cut an event unnoticed, an
attacker has to empty Redis and stop every admin within CHECK_EVERY_S of the event.
"""

from __future__ import annotations

from asyncpg import Record
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from prometheus_client import CollectorRegistry, Gauge
from redis.asyncio import Redis
from redis.exceptions import RedisError

from artstore.audit.check import ADMIN_CHAIN
from artstore.audit.event import fingerprint, is_signed_by
from artstore.database import Database
from artstore.logs import get_logger
from artstore.tasks import OutageLog

from ..core.redis import load_chain_ends, store_chain_ends
from .chain import Auditor
from .read import ROW_COLUMNS, to_event

log = get_logger("admin.truncation")

CHECK_EVERY_S = 1.0
_ENDS = f"""SELECT {ROW_COLUMNS}, k.public_key FROM audit_keys AS k CROSS JOIN LATERAL
    (SELECT * FROM audit_events WHERE audit_events.chain = k.chain ORDER BY seq DESC LIMIT 1) AS e"""


class TruncationMonitor:
    """One per process. Ends are remembered per key of the admin chain, because a recreated database has a new
    key."""

    def __init__(self, database: Database, redis: Redis, auditor: Auditor, registry: CollectorRegistry) -> None:
        self._database, self._redis, self._auditor = database, redis, auditor
        self._store_outage = OutageLog(log, "ends of audit chains not stored in redis")
        self._log_id = ""
        self._seen: dict[str, int] = {}
        self._cut: frozenset[str] = frozenset()
        gauge = Gauge(
            "audit_chains_cut", "Chains of the audit log that end before an event that was seen", registry=registry
        )
        gauge.set_function(lambda: len(self._cut))

    async def check(self) -> None:
        """The periodic task."""
        seen = await self.load_ends()
        rows = await self._database.fetch(_ENDS)
        ends = {row["chain"]: row["seq"] for row in rows}
        cut = frozenset(chain for chain, seq in seen.items() if ends.get(chain, 0) < seq)
        for chain in sorted(cut - self._cut):
            log.error("an audit chain was cut", chain=chain, ends_at=ends.get(chain, 0), seen=seen[chain])
        self._cut = cut
        grown = {
            row["chain"]: row["seq"]
            for row in rows
            if row["seq"] > seen.get(row["chain"], 0) and self._is_authentic(row)
        }
        self._seen.update(grown)
        if grown:
            try:
                await store_chain_ends(self._redis, self._log_id, grown)
            except RedisError as error:
                self._store_outage.failed(str(error))
            else:
                self._store_outage.succeeded()

    async def load_ends(self) -> dict[str, int]:
        """The last `seq` by chain that this process or Redis remembers. Raises Unavailable before the chain
        is open."""
        log_id = fingerprint(self._auditor.key.public_key().public_bytes_raw())
        if log_id != self._log_id:
            self._log_id, self._seen = log_id, {}
        try:
            kept = await load_chain_ends(self._redis, log_id)
        except RedisError:
            kept = {}
        for chain, seq in kept.items():
            self._seen[chain] = max(seq, self._seen.get(chain, 0))
        return dict(self._seen)

    def _is_authentic(self, row: Record) -> bool:
        """A forged end must not be remembered: after its removal the chain would look cut for ever."""
        own = row["chain"] == ADMIN_CHAIN
        try:
            key = self._auditor.key.public_key() if own else Ed25519PublicKey.from_public_bytes(row["public_key"])
        except ValueError:
            return False
        return is_signed_by({name: value for name, value in to_event(row).items() if name != "public_key"}, key)
