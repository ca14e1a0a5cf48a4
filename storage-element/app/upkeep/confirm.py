"""Confirmation: files whose saga was committed leave the store's list of what a compensation may take away.

Asks the catalog in batches and not the change events: an event may be missed, a row stays. What is older than the lease and
has no row is put before admin again, while catalog and disk agree: after the catalog went back, a rebuild decides instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from artstore.errors import ArtStoreError
from artstore.logs import get_logger

from ..store.store import Store
from .align import AT_ONCE, Align
from .reconcile import Reconciliation

log = get_logger("element.upkeep")

BATCH = 2000
"""Files in one query. As many are asked for in each round, whatever their age."""
YOUNG_S = 30.0
"""Uploads are committed within seconds: of more than one batch, only the young are asked for in each round."""
ALL_EVERY_ROUNDS = 15
"""A round that asks for all follows after so many that succeeded; one that fails is repeated."""
LAST_ROUND_S = 3.0


class Confirm:
    """One per process; `round` is called every few seconds. `announce` is called when admin should hear at once what was
    found out about the catalog."""

    def __init__(
        self,
        store: Store,
        reconciliation: Reconciliation,
        align: Align,
        lease_s: float,
        announce: Callable[[], Awaitable[None]],
    ) -> None:
        self._store, self.reconciliation, self._align, self._lease_s = store, reconciliation, align, lease_s
        self._announce = announce
        self._rounds = 0
        self.suspended = False
        """While a rebuild decides about the same files."""

    async def round(self) -> None:
        """Raises Unavailable while the catalog is away."""
        everything = self._rounds % ALL_EVERY_ROUNDS == 0
        now_s = self._store.clock.unix_s()
        unconfirmed, known = self._store.unconfirmed, self.reconciliation.news
        since_s = 0.0 if everything or len(unconfirmed) <= BATCH else now_s - YOUNG_S
        asked = {file_id: put for file_id, put in unconfirmed.items() if put.since_s >= since_s}
        file_ids = list(asked)
        for start in range(0, max(1, len(file_ids)), BATCH):
            available = await self.reconciliation.look(file_ids[start : start + BATCH])
            # Put again by another saga while the catalog answered: that one is not confirmed.
            confirmed = [file_id for file_id in available & asked.keys() if unconfirmed.get(file_id) is asked[file_id]]
            self._store.confirm(confirmed)
            await self.reconciliation.confirmed(confirmed)
        if self.reconciliation.news != known:
            await self._announce()
        if everything and not self.suspended and self.reconciliation.settled:
            await self._put_before_admin(now_s)
        self._rounds += 1

    async def last_round(self) -> None:
        """Before a clean stop: what the catalog answers at once need not be asked after the next start."""
        try:
            async with asyncio.timeout(LAST_ROUND_S):
                self._rounds = 0
                self.suspended = True
                await self.round()
        except (TimeoutError, ArtStoreError) as error:
            log.info("not all confirmed at the stop", unconfirmed=len(self._store.unconfirmed), error=str(error))

    async def _put_before_admin(self, now_s: float) -> None:
        old = [
            file_id
            for file_id, known in self._store.unconfirmed.items()
            if now_s - known.since_s > self._lease_s and file_id not in self._store.unsettled
        ]
        for start in range(0, len(old), AT_ONCE):
            await self._align.align(old[start : start + AT_ONCE], "confirm", "undo")
