"""The signing keys as this process has them in memory: what it signs with, what it verifies with, what it publishes."""

from __future__ import annotations

import asyncio

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from redis.asyncio import Redis
from redis.exceptions import RedisError

from artstore import points
from artstore.auth.keys import REFETCH_EVERY_S
from artstore.clock import Clock
from artstore.database import Database
from artstore.errors import Unavailable
from artstore.logs import get_logger

from ..audit.chain import Auditor, Event
from ..core.redis import keep_jwks
from ..seal import Sealer
from .rotation import KeyState, Plan, Schedule
from .signing import Signer, StoredKey, jwks, load_keys, make_keys, rotate, summary, to_signer

log = get_logger("admin.keyring")


class Keyring:
    """A KeySource for admin's own verifier, and the Signer for its Issuer."""

    def __init__(
        self,
        database: Database,
        redis: Redis,
        sealer: Sealer,
        auditor: Auditor,
        schedule: Schedule,
        bits: int,
        clock: Clock,
    ) -> None:
        self._database, self._redis, self._sealer, self._auditor = database, redis, sealer, auditor
        self._schedule, self._bits, self._clock = schedule, bits, clock
        self._keys: dict[str, StoredKey] = {}
        self._kids: frozenset[str] = frozenset()
        self._signer: Signer | None = None
        self._spares: list[RSAPrivateKey] = []
        self._loading = asyncio.Lock()
        self._loaded_s = float("-inf")
        self.jwks = jwks([])

    def signer(self) -> Signer:
        """The active key. Raises Unavailable before the first load."""
        if self._signer is None:
            raise Unavailable("no signing key is loaded yet", away="database")
        return self._signer

    @property
    def keys(self) -> list[StoredKey]:
        return list(self._keys.values())

    async def find(self, kid: str) -> RSAPublicKey | None:
        """An unknown kid may be of another admin's rotation: one reload, at most every REFETCH_EVERY_S."""
        if kid not in self._keys:
            async with self._loading:
                if kid not in self._keys and self._clock.monotonic_s() - self._loaded_s >= REFETCH_EVERY_S:
                    try:
                        await self._load()
                    except Unavailable:
                        log.warning("signing keys not reloaded", away="database")
        key = self._keys.get(kid)
        return key.public_key if key else None

    async def current(self) -> frozenset[str]:
        return self._kids

    async def check(self) -> None:
        """Raises while no token could be signed."""
        self.signer()

    async def keep(self) -> None:
        """The periodic task: rotate what is due, load, publish."""
        await self.rotate_due(force=False, by=None)
        async with self._loading:
            await self._load()
        await self._publish()

    async def rotate_now(self, by: str) -> None:
        """An operator's rotation; the tokens of the old key stay valid through its grace."""
        await self.rotate_due(force=True, by=by)
        async with self._loading:
            await self._load()
        await self._publish()

    async def rotate_due(self, *, force: bool, by: str | None) -> Plan:
        """One transaction does it or, when it needs more new keys than are at hand, says how many and is tried again."""
        while True:
            async with self._database.begin() as conn:
                due = await rotate(conn, self._schedule, self._spares, self._sealer, force=force)
                missing = len(due.create) - len(self._spares)
                if not due.empty and missing <= 0:
                    await self._auditor.record(conn, _rotated(due, by))
                    points.hit("admin.keys_rotated")
            if missing <= 0:
                del self._spares[: len(due.create)]
                if not due.empty:
                    log.info("signing keys rotated", active=due.activate, removed=len(due.remove), forced=force)
                return due
            self._spares += await make_keys(missing, self._bits)

    async def _load(self) -> None:
        async with self._database.begin() as conn:
            stored = await load_keys(conn)
        self._loaded_s = self._clock.monotonic_s()
        active = next((key for key in stored if key.state is KeyState.ACTIVE), None)
        if active is not None and (self._signer is None or self._signer.kid != active.kid):
            self._signer = to_signer(active, self._sealer)
        self._keys = {key.kid: key for key in stored}
        self._kids = frozenset(self._keys)
        self.jwks = jwks(stored)

    async def _publish(self) -> None:
        """Redis holds a copy for verifiers that cannot reach admin. Redis away: the next round writes it."""
        try:
            await keep_jwks(self._redis, self.jwks)
        except RedisError as error:
            log.warning("signing keys not copied to redis", error=str(error))


def _rotated(due: Plan, by: str | None) -> Event:
    return Event("keys.rotate", by or "artstore-admin", "signing-keys", metadata=summary(due))
