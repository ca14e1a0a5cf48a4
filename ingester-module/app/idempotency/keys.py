"""A request comes to its key: it is the first, it goes on after a dead one, it is given the first answer, or it is refused."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter

from artstore.clock import uuid7
from artstore.contracts.idempotency import Answer
from artstore.database import Database
from artstore.errors import ArtStoreError, KeyInUse, KeyReused, StorageFull, Unavailable
from artstore.failpoints import failpoint
from artstore.logs import get_logger
from artstore.tasks import Tasks

from .meeting import Kept, Meeting, meet
from .rows import Rows, Scope

log = get_logger("ingester.idempotency")

RENEWALS_IN_A_LEASE = 3
MAX_LOOKS = 5
"""How often a key may be let go or taken by others between two looks of one request."""


@dataclass(slots=True)
class Hold:
    """A key this request runs under. `saga_id` and `file_id` are those of the present try, as the row names them."""

    scope: Scope
    saga_id: str
    file_id: str
    from_revision: int | None = None
    """What an earlier try pinned, then what this one has."""
    taken_over: bool = False
    asked: bool = False
    """An element is asked for a change, by this try or by one before it."""
    in_doubt: bool = False
    """It has not said what became of it."""

    def doubt(self) -> None:
        self.in_doubt = True


class Keys:
    """One per process."""

    def __init__(self, database: Database, tasks: Tasks, registry: CollectorRegistry, *, lease_s: float) -> None:
        self.rows = Rows(database, lease_s)
        self._tasks = tasks
        self._met = Counter(
            "idempotency_requests_total", "Requests under an Idempotency-Key", ["result"], registry=registry
        )
        for meeting in Meeting:
            self._met.labels(meeting.value)

    async def enter(self, scope: Scope, fingerprint: str, file_id: str | None = None) -> Hold | Answer:
        """The key held, or the answer that was given. `file_id` is that of the file to change; None: of a new one.

        Raises KeyInUse, KeyReused, DatabaseAway.
        """
        for _ in range(MAX_LOOKS):
            hold = Hold(scope, str(uuid7()), file_id or str(uuid7()))
            if await self.rows.claim(scope, fingerprint, hold.saga_id, hold.file_id):
                failpoint("key.claimed")
                self._met.labels(Meeting.FIRST).inc()
                return hold
            kept = await self.rows.find(scope)
            if kept is None:
                continue  # released in between
            met = meet(kept, fingerprint)
            if met is Meeting.TAKEN_OVER:
                if not await self.rows.take(scope, kept.saga_id, hold.saga_id, hold.file_id):
                    continue  # answered, or another was faster
                failpoint("key.taken_over")
                log.warning("key taken over", saga_id=hold.saga_id, after=kept.saga_id, file_id=hold.file_id)
                hold.taken_over, hold.from_revision = True, kept.from_revision
            self._met.labels(met).inc()
            return hold if met is Meeting.TAKEN_OVER else _answer(kept, met)
        self._met.labels(Meeting.RUNNING).inc()
        raise KeyInUse(retry_after_s=1)

    @asynccontextmanager
    async def held(self, hold: Hold) -> AsyncIterator[None]:
        """Renews the lease while the block runs. A block that fails leaves the key free, or to be gone on with."""
        renewing = self._tasks.start(f"renew:{hold.saga_id}", self._renew(hold))
        try:
            yield
        except BaseException as failure:
            left_nothing = not hold.asked or (_is_final(failure) and not hold.in_doubt)
            settling = self._tasks.start(f"settle:{hold.saga_id}", self._settle(hold, renewing, left_nothing))
            if isinstance(failure, Exception):
                await asyncio.wait((settling,))
            raise
        finally:
            renewing.cancel()

    async def next_try(self, hold: Hold) -> None:
        """Fresh ids for a try on another element, durable before its first byte leaves. Raises KeyInUse, DatabaseAway."""
        saga_id, file_id = str(uuid7()), str(uuid7())
        if not await self.rows.move(hold.scope, hold.saga_id, saga_id, file_id):
            raise lost()
        hold.saga_id, hold.file_id = saga_id, file_id
        failpoint("key.moved")

    async def pin(self, hold: Hold, revision: int) -> None:
        """Raises KeyInUse, DatabaseAway."""
        if not await self.rows.pin(hold.scope, hold.saga_id, revision):
            raise lost()
        hold.from_revision = revision
        failpoint("key.pinned")

    async def answer(self, hold: Hold, answer: Answer) -> None:
        """Keeps it, if the key is still ours. With PostgreSQL away it is given all the same: it is true."""
        try:
            if not await self.rows.answer(hold.scope, hold.saga_id, answer):
                log.warning("key was taken over before the answer", saga_id=hold.saga_id)
        except Unavailable as error:
            log.warning("answer not kept", saga_id=hold.saga_id, error=error.detail)
        failpoint("key.answered")

    async def _renew(self, hold: Hold) -> None:
        while True:
            await asyncio.sleep(self.rows.lease_s / RENEWALS_IN_A_LEASE)
            try:
                await self.rows.renew(hold.scope, hold.saga_id)  # if it is lost, that shows where it matters
            except Unavailable as error:
                log.warning("key not renewed", saga_id=hold.saga_id, error=error.detail)

    async def _settle(self, hold: Hold, renewing: asyncio.Task[None], left_nothing: bool) -> None:
        renewing.cancel()
        await asyncio.wait((renewing,))
        try:
            end = self.rows.release if left_nothing else self.rows.let_go
            await end(hold.scope, hold.saga_id)
        except ArtStoreError as error:
            log.warning("key not released, its lease will end", saga_id=hold.saga_id, error=error.detail)


def _is_final(failure: BaseException) -> bool:
    """Whether it says that the change was not made, and never will be by this request."""
    return isinstance(failure, StorageFull) or (isinstance(failure, ArtStoreError) and failure.status < 500)


def lost() -> KeyInUse:
    return KeyInUse("another request has taken this key over", retry_after_s=1)


def _answer(kept: Kept, met: Meeting) -> Answer:
    if met is Meeting.MISMATCH:
        raise KeyReused()
    if kept.answer is None:
        raise KeyInUse(retry_after_s=math.ceil(max(kept.held_s, 1)))
    return kept.answer
