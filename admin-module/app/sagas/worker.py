"""Finishes sagas in the background: claims those that are due and applies, keeps or undoes each.

Every admin runs a worker; a claim gives each saga to one of them. After a crash the saga is claimed again
when the claim expires.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping

from prometheus_client import CollectorRegistry, Counter

from artstore.database import Database
from artstore.errors import ArtStoreError, Unavailable
from artstore.failpoints import failpoint
from artstore.logs import get_logger
from artstore.peers.client import Peer
from artstore.peers.session import Peers
from artstore.tasks import until_tick, wait_or_timeout
from artstore.tracing import root_span

from ..audit.chain import Auditor
from ..elements.generations import Generations
from .claim import ClaimedSaga, ClaimLost, ClaimScope, claim_due, extend_after_outage, is_round_due, note_failure
from .keep import CONFIRMED, RESTORED, Keeper
from .move import Mover
from .queued_changes import QueuedChanges
from .saga import SagaState
from .undo import HeldAsConfirmed, undo

log = get_logger("admin.sagas")

MAX_CONCURRENT_CALLS = 8
ROUND_EVERY_S = 1.0


class SagaWorker:
    """One per process; all processes share the work."""

    def __init__(
        self,
        database: Database,
        peers: Peers,
        generations: Generations,
        auditor: Auditor,
        registry: CollectorRegistry,
        mode_changed: Callable[[], None],
        lease_s: float,
        call_timeout_s: float,
        reading_token: Callable[[], str],
    ) -> None:
        """`mode_changed` is called after an element has applied a queued mode change."""
        self._database, self._peers, self._generations = database, peers, generations
        mover = Mover(database, peers, reading_token, call_timeout_s)
        self._changes = QueuedChanges(database, auditor, registry, mode_changed, call_timeout_s, mover)
        self._keeper = Keeper(database, auditor, call_timeout_s)
        self._lease_s, self._call_timeout_s = lease_s, call_timeout_s
        self._woken = asyncio.Event()
        self._undone = Counter(
            "saga_compensations_total", "Attempts to compensate uploads at elements", ["result"], registry=registry
        )
        for result in ("ok", "failed", "kept"):
            self._undone.labels(result)  # from 0, so that the first one is an increase

    def wake(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        """One round: wait for `wake` or ROUND_EVERY_S, then process due sagas until none is left."""
        await wait_or_timeout(self._woken, until_tick(ROUND_EVERY_S))
        self._woken.clear()
        while await self.run_due():
            pass

    async def run_due(self) -> list[ClaimedSaga]:
        """Claims due sagas and tries each once. Those that fail are due again after their backoff."""
        if not await is_round_due(self._database, self._lease_s):
            return []
        # 1. claim: durable, so that no commit can follow once an element is asked to remove a file
        resting = self._peers.refused()
        async with self._database.begin() as conn:
            current = await self._generations.load(conn)
            if current.is_other_database:
                return []  # a new generation starts within a second; nothing may be undone before
            await extend_after_outage(conn, self._lease_s)
            reconciled = await self._generations.find_reconciled(conn, current)
            claimed, urls = await claim_due(conn, ClaimScope(current, reconciled, resting), self._call_timeout_s)
        if claimed:
            failpoint("admin.saga_claimed")
        # 2. ask the elements, outside any transaction, and close each saga as soon as its elements have
        #    answered
        limit = asyncio.Semaphore(MAX_CONCURRENT_CALLS)

        async def resume(saga: ClaimedSaga) -> None:
            async with limit:
                await self._try(saga, urls, reconciled)

        async with asyncio.TaskGroup() as group:
            for saga in claimed:
                group.create_task(resume(saga))
        return claimed

    async def _try(self, saga: ClaimedSaga, urls: Mapping[str, str], reconciled: Collection[str]) -> None:
        try:
            with root_span("saga.resume", {"artstore.saga_id": saga.saga_id, "artstore.file_id": saga.file_id or ""}):
                if saga.state is SagaState.QUEUED:
                    await self._changes.apply(saga, self._peer_of(saga, urls))
                elif saga.state is SagaState.BEGUN:
                    await self._keeper.keep_or_expire(saga, self._peer_of(saga, urls), RESTORED)
                else:
                    await self._undo(saga, {name: url for name, url in urls.items() if name in reconciled})
        except ClaimLost:
            log.warning("claim lost to another admin", saga_id=saga.saga_id, attempts=saga.attempts)
        except ArtStoreError as error:
            await note_failure(self._database, saga, error.detail)

    def _peer_of(self, saga: ClaimedSaga, urls: Mapping[str, str]) -> Peer:
        """Raises Unavailable."""
        element_id = saga.storage_element_id
        if element_id not in urls:
            raise Unavailable(f"{element_id} is unavailable", away=element_id)
        return self._peers.to(element_id, urls[element_id])

    async def _undo(self, saga: ClaimedSaga, urls: Mapping[str, str]) -> None:
        try:
            await undo(self._database, self._peers, saga, urls, self._call_timeout_s)
        except HeldAsConfirmed as held:
            await self._keep_confirmed(saga, urls, held)
            return
        except ArtStoreError:
            self._undone.labels("failed").inc()
            raise
        self._undone.labels("ok").inc()
        log.info("saga undone", saga_id=saga.saga_id, file_id=saga.file_id, state=saga.state.value)

    async def _keep_confirmed(self, saga: ClaimedSaga, urls: Mapping[str, str], held: HeldAsConfirmed) -> None:
        """The element has seen this upload committed, and this catalog has not. For a saga of the present
        generation that shows that the catalog was rolled back."""
        self._undone.labels("kept").inc()
        if not saga.old:
            reason = f"{held.element_id} holds a file as acknowledged whose upload is being undone"
            await self._generations.start(reason, lambda now: now.generation == saga.generation)
        if not await self._keeper.keep_or_expire(saga, self._peer_of(saga, urls), CONFIRMED):
            raise held  # the file has disappeared since: retried after a pause
