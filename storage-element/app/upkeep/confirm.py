"""Confirmation: a file whose saga was committed leaves the store's list of files that a compensation may
remove.

The catalog is queried in batches, instead of following change events: an event may be missed, a row stays.
Files older than the lease without a row are reported to admin again, but only while catalog and disk agree:
after the catalog went back in time, a rebuild decides instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from artstore.errors import ArtStoreError
from artstore.logs import get_logger

from ..store.store import Store
from .generation import CatalogGeneration
from .reconcile import GROUP, Reconciler

log = get_logger("element.upkeep")

BATCH = 2000
"""Files in one query. Up to this many are queried in each round, whatever their age."""
YOUNG_S = 30.0
"""Uploads are committed within seconds: of more than one batch, only younger files are queried in each
round."""
ALL_EVERY_ROUNDS = 15
"""All files are queried once in this many successful rounds; a failed round is repeated."""
LAST_ROUND_S = 3.0


class Confirm:
    """One per process; `round` is called every few seconds. `announce` is called when admin must learn at
    once about a change of the catalog."""

    def __init__(
        self,
        store: Store,
        generation: CatalogGeneration,
        reconciler: Reconciler,
        lease_s: float,
        announce: Callable[[], Awaitable[None]],
    ) -> None:
        self._store, self.generation, self._reconciler, self._lease_s = store, generation, reconciler, lease_s
        self._announce = announce
        self._rounds = 0
        self.suspended = False
        """While a rebuild decides about the same files."""

    async def round(self) -> None:
        """Raises Unavailable when the catalog does not answer."""
        everything = self._rounds % ALL_EVERY_ROUNDS == 0
        now_s = self._store.clock.unix_s()
        unconfirmed, known = self._store.unconfirmed, self.generation.news
        since_s = 0.0 if everything or len(unconfirmed) <= BATCH else now_s - YOUNG_S
        queried = {file_id: put for file_id, put in unconfirmed.items() if put.since_s >= since_s}
        file_ids = list(queried)
        for start in range(0, max(1, len(file_ids)), BATCH):
            available = await self.generation.query(file_ids[start : start + BATCH])
            # A file put again by another saga while the catalog answered is not confirmed.
            confirmed = [
                file_id for file_id in available & queried.keys() if unconfirmed.get(file_id) is queried[file_id]
            ]
            self._store.confirm(confirmed)
            await self.generation.add_witnesses(confirmed)
        if self.generation.news != known:
            await self._announce()
        if everything and not self.suspended and self.generation.is_reconciled:
            await self._report_old(now_s)
        self._rounds += 1

    async def last_round(self) -> None:
        """Before a clean stop: a file confirmed now need not be queried after the next start."""
        try:
            async with asyncio.timeout(LAST_ROUND_S):
                self._rounds = 0
                self.suspended = True
                await self.round()
        except (TimeoutError, ArtStoreError) as error:
            log.info("files unconfirmed at the stop", unconfirmed=len(self._store.unconfirmed), error=str(error))

    async def _report_old(self, now_s: float) -> None:
        """Give files older than the lease a pending row, so that admin undoes or commits them."""
        old = [
            file_id
            for file_id, known in self._store.unconfirmed.items()
            if now_s - known.since_s > self._lease_s and file_id not in self._store.unsettled
        ]
        for start in range(0, len(old), GROUP):
            await self._reconciler.reconcile(old[start : start + GROUP], "confirm", "undo")
