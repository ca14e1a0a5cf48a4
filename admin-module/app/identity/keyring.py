"""The signing keys in memory: the key that signs, the keys that verify, and the published JWKS document."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Collection

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from prometheus_client import CollectorRegistry, Gauge
from redis.asyncio import Redis
from redis.exceptions import RedisError

from artstore.audit.event import Event
from artstore.auth.keys import REFETCH_EVERY_S, sign_jwks
from artstore.auth.revocations import Revocations
from artstore.clock import Clock
from artstore.contracts.tokens import ISSUER
from artstore.database import Database
from artstore.errors import DATABASE, Unavailable
from artstore.failpoints import failpoint
from artstore.logs import get_logger
from artstore.tasks import OutageLog

from ..audit.chain import Auditor
from ..core.redis import announce_key_change, store_jwks
from .links import LinkKey, load_link_key, rotate_link_key
from .revocations import load_revocations, revoke_key
from .rotation import KeyAge, KeyState, Plan, Schedule, find_overdue_s
from .secrets import KeyCipher
from .signing import Signer, StoredKey, jwks, load_keys, make_keys, rotate, summary, to_signer

log = get_logger("admin.keyring")


class KeyKind(enum.StrEnum):
    TOKENS = "tokens"
    LINKS = "links"


class Keyring:
    """A KeySource for admin's own verifier, and the Signer for its Issuer."""

    def __init__(
        self,
        database: Database,
        redis: Redis,
        cipher: KeyCipher,
        auditor: Auditor,
        schedule: Schedule,
        clock: Clock,
        registry: CollectorRegistry,
    ) -> None:
        self._database, self._redis, self._cipher, self._auditor = database, redis, cipher, auditor
        self._schedule, self._clock = schedule, clock
        self._copy_outage = OutageLog(log, "signing keys not copied to redis")
        self._keys: dict[str, StoredKey] = {}
        self._revoked = Revocations()
        self._signer: Signer | None = None
        self._prepared_keys: list[RSAPrivateKey] = []
        self._loading = asyncio.Lock()
        self._loaded_s = float("-inf")
        self._link_key: LinkKey | None = None
        self.jwks = jwks([], {}, self._revoked)
        overdue = Gauge(
            "signing_key_overdue_seconds",
            "Seconds for which the active signing key has been due for rotation; 0 while it is not due",
            registry=registry,
        )
        overdue.set_function(lambda: find_overdue_s(self.ages, clock.now(), schedule))

    def signer(self) -> Signer:
        """The active key. Raises Unavailable before the first load."""
        if self._signer is None:
            raise Unavailable("no signing key is loaded yet", away=DATABASE)
        return self._signer

    @property
    def keys(self) -> list[StoredKey]:
        return list(self._keys.values())

    @property
    def ages(self) -> list[KeyAge]:
        return [KeyAge(key.kid, key.state, key.since) for key in self._keys.values()]

    @property
    def link_key(self) -> LinkKey | None:
        return self._link_key

    async def find(self, kid: str) -> RSAPublicKey | None:
        """An unknown kid may come from another admin's rotation, so it causes a reload, at most one per
        REFETCH_EVERY_S."""
        if kid not in self._keys:
            async with self._loading:
                if kid not in self._keys and self._clock.monotonic_s() - self._loaded_s >= REFETCH_EVERY_S:
                    try:
                        await self._load()
                    except Unavailable:
                        log.warning("signing keys not reloaded", away=DATABASE)
        key = self._keys.get(kid)
        return key.public_key if key else None

    def valid(self, kid: str, subject: str, issued_at_s: float) -> bool:
        return kid in self._keys and not self._revoked.covers(kid, subject, issued_at_s)

    async def check(self) -> None:
        """Raises while no token could be signed."""
        self.signer()

    async def keep(self) -> None:
        """The periodic task: rotate due keys, load, publish."""
        due = await self.rotate_due(force=False, by=None)
        made = self._link_key is None and await self._rotate_link_key(force=False, by=None)
        await (self.refresh() if due.empty and not made else self.changed())

    async def rotate_now(self, kinds: Collection[KeyKind], by: str) -> None:
        """Rotate for an operator. Tokens of the old key stay valid for its grace period; links do not."""
        if KeyKind.TOKENS in kinds:
            await self.rotate_due(force=True, by=by)
        if KeyKind.LINKS in kinds:
            await self._rotate_link_key(force=True, by=by)
        await self.changed()

    async def revoke(self, kid: str, by: str) -> None:
        """Emergency: revoke the key's tokens at once on all services; the next key signs from now on. Raises
        NotFound."""
        if self._link_key is not None and kid == self._link_key.kid:
            await self._rotate_link_key(force=True, by=by)
        else:
            await self.rotate_due(revoke=kid, by=by)
        await self.changed()

    async def changed(self) -> None:
        """After a commit that changed keys or revocations: load them here, and notify all other processes."""
        try:
            await self.refresh()
            await announce_key_change(self._redis)
        except (Unavailable, RedisError) as error:
            # The change is committed; the periodic tasks of all admins and verifiers will find it a little
            # later.
            log.warning("change of signing keys not announced", error=str(error))

    async def on_keys_changed(self, _message: str) -> None:
        """Another admin has changed keys or revocations."""
        await self.refresh()

    async def refresh(self) -> None:
        async with self._loading:
            await self._load()
        await self._publish()

    async def rotate_due(self, *, force: bool = False, revoke: str | None = None, by: str | None) -> Plan:
        """Rotate in one transaction. If it needs more new keys than are prepared, prepare them and try
        again."""
        while True:
            async with self._database.begin() as conn:
                now = self._clock.now()
                due = await rotate(
                    conn, self._schedule, self._prepared_keys, self._cipher, now, force=force, revoke=revoke
                )
                missing = len(due.create) - len(self._prepared_keys)
                if not due.empty and missing <= 0:
                    if revoke is not None:
                        await revoke_key(conn, revoke)
                    await self._auditor.record(conn, _rotated(due, by, revoke))
                    failpoint("admin.keys_rotated")
            if missing <= 0:
                del self._prepared_keys[: len(due.create)]
                if not due.empty:
                    log.info("signing keys rotated", active=due.activate, removed=len(due.remove), forced=force)
                return due
            self._prepared_keys += await make_keys(missing)

    async def _rotate_link_key(self, *, force: bool, by: str | None) -> bool:
        async with self._database.begin() as conn:
            metadata = await rotate_link_key(conn, self._cipher, force=force)
            if metadata is not None:
                event = Event("key:rotate", by or ISSUER, metadata["active"], metadata=metadata)
                await self._auditor.record(conn, event)
        return metadata is not None

    async def _load(self) -> None:
        async with self._database.begin() as conn:
            stored, revoked = await load_keys(conn), await load_revocations(conn)
            self._link_key = await load_link_key(conn, self._cipher)
        self._loaded_s = self._clock.monotonic_s()
        active = next((key for key in stored if key.state is KeyState.ACTIVE), None)
        if active is not None and (self._signer is None or self._signer.kid != active.kid):
            self._signer = to_signer(active, self._cipher)
        self._keys = {key.kid: key for key in stored}
        self._revoked = revoked
        links = {} if self._link_key is None else {self._link_key.kid: self._link_key.public_key}
        self.jwks = jwks(stored, links, revoked)

    async def _publish(self) -> None:
        """Stores a signed copy in Redis for verifiers that cannot reach admin. The next round retries after a
        failure."""
        if self._signer is None:
            return
        try:
            await store_jwks(self._redis, sign_jwks(self.jwks, self._signer.kid, self._signer.private_key))
        except RedisError as error:
            self._copy_outage.failed(str(error))
        else:
            self._copy_outage.succeeded()


def _rotated(due: Plan, by: str | None, revoked: str | None) -> Event:
    """The resource is the key that was revoked, or the one that signs from now on."""
    action = "key:rotate" if revoked is None else "key:revoke"
    return Event(action, by or ISSUER, revoked or due.activate or "-", metadata=summary(due))
