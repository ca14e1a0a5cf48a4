"""The background half of the sagas, by whichever admin comes first: what is due is claimed, and undone or made.

A crash between the claim and the end only means that it is done again when the claim has run out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter

from artstore import points
from artstore.database import Database
from artstore.errors import ArtStoreError, Unavailable
from artstore.logs import get_logger
from artstore.peers import Peers
from artstore.tracing import span

from .change import QueuedChanges
from .claim import Claimed, ClaimLost, claim_due, note_failure
from .saga import SagaState
from .undo import undo

log = get_logger("admin.sagas")

CALLS_AT_ONCE = 8
ROUND_EVERY_S = 1.0


class Resume:
    """One per process; all processes share the work."""

    def __init__(
        self,
        database: Database,
        peers: Peers,
        changes: QueuedChanges,
        registry: CollectorRegistry,
        *,
        call_timeout_s: float,
    ) -> None:
        self._database, self._peers, self._changes, self._call_timeout_s = database, peers, changes, call_timeout_s
        self._kicked = asyncio.Event()
        self._undone = Counter(
            "saga_compensations_total", "Compensations tried at elements", ["result"], registry=registry
        )
        for result in ("ok", "failed"):
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
            claimed, urls = await claim_due(conn, resting, self._call_timeout_s)
        if claimed:
            points.hit("admin.saga_claimed")
        # 2. ask the elements, outside any transaction, and close each saga as soon as its elements have answered
        limit = asyncio.Semaphore(CALLS_AT_ONCE)

        async def resume(saga: Claimed) -> None:
            async with limit:
                await self._try(saga, urls)

        async with asyncio.TaskGroup() as group:
            for saga in claimed:
                group.create_task(resume(saga))
        return claimed

    async def _try(self, saga: Claimed, urls: Mapping[str, str]) -> None:
        try:
            with span("saga.resume", saga_id=saga.saga_id):
                if saga.state is SagaState.QUEUED:
                    await self._make(saga, urls)
                else:
                    await self._undo(saga, urls)
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

    async def _make(self, saga: Claimed, urls: Mapping[str, str]) -> None:
        element_id = saga.storage_element_id
        if element_id not in urls:
            raise Unavailable(f"{element_id} is away", away=element_id)
        await self._changes.make(saga, self._peers.to(element_id, urls[element_id]))

    async def _undo(self, saga: Claimed, urls: Mapping[str, str]) -> None:
        try:
            await undo(self._database, self._peers, saga, urls, self._call_timeout_s)
        except ArtStoreError:
            self._undone.labels("failed").inc()
            raise
        self._undone.labels("ok").inc()
        log.info("saga undone", saga_id=saga.saga_id, file_id=saga.file_id, state=saga.state.value)
