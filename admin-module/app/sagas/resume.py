"""The background half of the sagas, by whichever admin comes first: what is due is claimed, and undone or made.

A crash between the claim and the end only means that it is done again when the claim has run out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

from prometheus_client import CollectorRegistry, Counter

from artstore.database import Database
from artstore.errors import ArtStoreError, Unavailable
from artstore.failpoints import failpoint
from artstore.logs import get_logger
from artstore.peers.client import Peer
from artstore.peers.session import Peers
from artstore.tracing import span

from ..elements.generations import Generations
from .change import QueuedChanges
from .claim import Claimed, ClaimLost, Claims, claim_due, note_failure
from .keep import CONFIRMED, RESTORED, Keeper
from .leases import attend
from .saga import SagaState
from .undo import HeldAsConfirmed, undo

log = get_logger("admin.sagas")

CALLS_AT_ONCE = 8
ROUND_EVERY_S = 1.0


class Resume:
    """One per process; all processes share the work."""

    def __init__(
        self,
        database: Database,
        peers: Peers,
        generations: Generations,
        changes: QueuedChanges,
        keeper: Keeper,
        registry: CollectorRegistry,
        *,
        lease_s: float,
        call_timeout_s: float,
    ) -> None:
        self._database, self._peers, self._generations = database, peers, generations
        self._changes, self._keeper = changes, keeper
        self._lease_s, self._call_timeout_s = lease_s, call_timeout_s
        self._kicked = asyncio.Event()
        self._undone = Counter(
            "saga_compensations_total", "Compensations tried at elements", ["result"], registry=registry
        )
        for result in ("ok", "failed", "kept"):
            self._undone.labels(result)  # from 0, so that the first one is an increase

    def kick(self) -> None:
        self._kicked.set()

    async def run(self) -> None:
        """One round: wait for a kick or ROUND_EVERY_S, then do what is due, and what has become due by that."""
        try:
            async with asyncio.timeout(ROUND_EVERY_S):
                await self._kicked.wait()
        except TimeoutError:
            pass
        self._kicked.clear()
        while await self.resume_due():
            pass

    async def resume_due(self) -> list[Claimed]:
        """Claims what is due and tries each once. What failed is due again after its backoff."""
        # 1. claim: durable, so that no commit can follow once an element is asked to remove a file
        resting = self._peers.refused()
        async with self._database.begin() as conn:
            current = await self._generations.load(conn)
            if current.is_other_database:
                return []  # its new generation starts within a second, and nothing may be undone before
            await attend(conn, self._lease_s)
            reconciled = await self._generations.find_reconciled(conn, current)
            claimed, urls = await claim_due(conn, Claims(current, reconciled, resting), self._call_timeout_s)
        if claimed:
            failpoint("admin.saga_claimed")
        # 2. ask the elements, outside any transaction, and close each saga as soon as its elements have answered
        limit = asyncio.Semaphore(CALLS_AT_ONCE)

        async def resume(saga: Claimed) -> None:
            async with limit:
                await self._try(saga, urls, reconciled)

        async with asyncio.TaskGroup() as group:
            for saga in claimed:
                group.create_task(resume(saga))
        return claimed

    async def _try(self, saga: Claimed, urls: Mapping[str, str], reconciled: Collection[str]) -> None:
        try:
            with span("saga.resume", saga_id=saga.saga_id):
                if saga.state is SagaState.QUEUED:
                    await self._changes.make(saga, self._peer_of(saga, urls))
                elif saga.state is SagaState.BEGUN:
                    await self._keeper.settle(saga, self._peer_of(saga, urls), RESTORED)
                else:
                    await self._undo(saga, {name: url for name, url in urls.items() if name in reconciled})
        except ClaimLost:
            log.warning("claim lost, another admin goes on", saga_id=saga.saga_id, attempts=saga.attempts)
        except ArtStoreError as error:
            log.warning(
                "saga not finished",
                saga_id=saga.saga_id,
                kind=saga.kind.value,
                state=saga.state.value,
                attempts=saga.attempts,
                error=error.detail,
            )
            await note_failure(self._database, saga, error.detail)

    def _peer_of(self, saga: Claimed, urls: Mapping[str, str]) -> Peer:
        """Raises Unavailable."""
        element_id = saga.storage_element_id
        if element_id not in urls:
            raise Unavailable(f"{element_id} is unavailable", away=element_id)
        return self._peers.to(element_id, urls[element_id])

    async def _undo(self, saga: Claimed, urls: Mapping[str, str]) -> None:
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

    async def _keep_confirmed(self, saga: Claimed, urls: Mapping[str, str], held: HeldAsConfirmed) -> None:
        """The element has seen this upload committed, and this catalog has not: of a saga of the catalog's own generation
        that is evidence that the catalog went back."""
        self._undone.labels("kept").inc()
        if not saga.old:
            reason = f"{held.element_id} holds a file as acknowledged whose upload is being undone"
            await self._generations.start(reason, lambda now: now.generation == saga.generation)
        if not await self._keeper.settle(saga, self._peer_of(saga, urls), CONFIRMED):
            raise held  # it has gone since: asked again after a pause
