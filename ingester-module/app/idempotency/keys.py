"""A request under an Idempotency-Key: it is the first, it takes over from a dead one, it is replayed, or it
is refused."""

from __future__ import annotations

import asyncio
import enum
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry, Counter

from artstore.clock import uuid7
from artstore.contracts.idempotency import Answer
from artstore.database import Database
from artstore.errors import ArtStoreError, KeyInUse, KeyReused, StorageFull, Unavailable
from artstore.failpoints import failpoint
from artstore.logs import get_logger
from artstore.tasks import Tasks

from .store import KeyStore, Scope, StoredKey

log = get_logger("ingester.idempotency")

RENEWALS_PER_LEASE = 3
MAX_CLAIMS = 5
"""Rounds of claim and find, because other requests may release or take over the key between the two."""


class KeyDecision(enum.StrEnum):
    """`result` of idempotency_requests_total."""

    FIRST = "first"
    """The key is new: run the request."""
    REPLAYED = "replayed"
    """Give the stored answer."""
    RUNNING = "running"
    """The first request still holds the key: 409."""
    MISMATCH = "mismatch"
    """The key belongs to a different request: 422."""
    TAKEN_OVER = "taken_over"
    """The first request ended without an answer: continue in its place."""


def decide(stored: StoredKey, fingerprint: str) -> KeyDecision:
    """For a key that has a row already."""
    if stored.fingerprint != fingerprint:
        return KeyDecision.MISMATCH
    if stored.answer is not None:
        return KeyDecision.REPLAYED
    return KeyDecision.RUNNING if stored.lease_left_s > 0 else KeyDecision.TAKEN_OVER


class HeldKey:
    """A key that this request holds. `saga_id` is the present attempt's, and the row's as long as the key is
    held.

    Methods raise KeyInUse when another request has taken the key over, and DatabaseUnavailable.
    """

    def __init__(self, store: KeyStore, scope: Scope) -> None:
        self._store, self._scope = store, scope
        self.saga_id = str(uuid7())
        self.from_revision: int | None = None
        """The revision that was pinned by an earlier attempt, then by this one."""
        self.taken_over = False
        self.changes_file = False
        """The request changes an existing file, so that a failed attempt may have had an effect."""
        self.outcome_unknown = False
        """The element was asked for the change and did not say whether it was made."""

    async def next_attempt(self, saga_id: str, file_id: str) -> None:
        """Records the ids of an attempt on another element, durable before its first byte is sent."""
        if not await self._store.set_ids(self._scope, self.saga_id, saga_id, file_id):
            raise taken_over()
        self.saga_id = saga_id
        failpoint("key.moved")

    async def pin(self, revision: int) -> None:
        if not await self._store.pin(self._scope, self.saga_id, revision):
            raise taken_over()
        self.from_revision = revision
        failpoint("key.pinned")

    async def store_answer(self, answer: Answer) -> None:
        """Best effort: the answer is true and is given even if PostgreSQL is unavailable or the key was taken
        over."""
        try:
            if not await self._store.answer(self._scope, self.saga_id, answer):
                log.warning("key taken over before the answer was stored", saga_id=self.saga_id)
        except Unavailable as error:
            log.warning("answer not stored", saga_id=self.saga_id, error=error.detail)
        failpoint("key.answered")

    async def renew_forever(self) -> None:
        while True:
            await asyncio.sleep(self._store.lease_s / RENEWALS_PER_LEASE)
            try:
                await self._store.renew(self._scope, self.saga_id)  # a lost key shows at `pin`, `next_attempt`, commit
            except Unavailable as error:
                log.warning("key not renewed", saga_id=self.saga_id, error=error.detail)

    async def release(self) -> None:
        """Frees the key: the request had no effect. Raises DatabaseUnavailable; then the key's lease ends."""
        await self._store.release(self._scope, self.saga_id)

    async def give_up(self, failure: BaseException) -> None:
        """Frees the key when the failed request certainly had no effect, else ends the lease: a repeat may
        continue."""
        had_no_effect = not self.changes_file or (_is_refusal(failure) and not self.outcome_unknown)
        end = self._store.release if had_no_effect else self._store.end_lease
        try:
            await end(self._scope, self.saga_id)
        except ArtStoreError as error:
            log.warning("key not released; its lease will end", saga_id=self.saga_id, error=error.detail)


class Keys:
    """All requests of this process that carry an Idempotency-Key."""

    def __init__(self, database: Database, tasks: Tasks, registry: CollectorRegistry, *, lease_s: float) -> None:
        self.store = KeyStore(database, lease_s)
        self._tasks = tasks
        self._decisions = Counter(
            "idempotency_requests_total", "Requests under an Idempotency-Key", ["result"], registry=registry
        )
        for decision in KeyDecision:
            self._decisions.labels(decision.value)

    async def acquire(self, scope: Scope, fingerprint: str, file_id: str) -> HeldKey | Answer:
        """The key, or the stored answer. `file_id`: the file that is made or changed.

        Raises KeyInUse, KeyReused, DatabaseUnavailable.
        """
        for _ in range(MAX_CLAIMS):
            held = HeldKey(self.store, scope)
            if await self.store.claim(scope, fingerprint, held.saga_id, file_id):
                failpoint("key.claimed")
                self._decisions.labels(KeyDecision.FIRST).inc()
                return held
            stored = await self.store.find(scope)
            if stored is None:
                continue  # released between the two statements
            decision = decide(stored, fingerprint)
            if decision is KeyDecision.TAKEN_OVER:
                if not await self.store.take_over(scope, stored.saga_id, held.saga_id, file_id):
                    continue  # answered, or another request was faster
                failpoint("key.taken_over")
                log.warning("key taken over", saga_id=held.saga_id, after=stored.saga_id, file_id=file_id)
                held.taken_over, held.from_revision = True, stored.from_revision
            self._decisions.labels(decision).inc()
            return held if decision is KeyDecision.TAKEN_OVER else _stored_answer(stored, decision)
        self._decisions.labels(KeyDecision.RUNNING).inc()
        raise KeyInUse(retry_after_s=1)

    @asynccontextmanager
    async def hold(self, held: HeldKey) -> AsyncIterator[None]:
        """Renews the lease while the block runs, and gives the key up when the block fails."""
        renewal = self._tasks.start(f"renew:{held.saga_id}", held.renew_forever())
        try:
            yield
        except BaseException as failure:
            release = self._tasks.complete(f"settle:{held.saga_id}", self._give_up(held, renewal, failure))
            if isinstance(failure, Exception):
                await asyncio.wait((release,))
            raise
        finally:
            renewal.cancel()

    async def _give_up(self, held: HeldKey, renewal: asyncio.Task[None], failure: BaseException) -> None:
        renewal.cancel()
        await asyncio.wait((renewal,))
        await held.give_up(failure)


def taken_over() -> KeyInUse:
    return KeyInUse("another request has taken this key over", retry_after_s=1)


def _is_refusal(failure: BaseException) -> bool:
    """The failure says that the change was not made and will not be made by this request."""
    return isinstance(failure, StorageFull) or (isinstance(failure, ArtStoreError) and failure.status < 500)


def _stored_answer(stored: StoredKey, decision: KeyDecision) -> Answer:
    if decision is KeyDecision.MISMATCH:
        raise KeyReused()
    if stored.answer is None:
        raise KeyInUse(retry_after_s=math.ceil(max(stored.lease_left_s, 1)))
    return stored.answer
