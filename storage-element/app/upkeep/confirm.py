"""Confirmation: files whose saga was committed leave the store's list of what a compensation may take away.

Asks the catalog in batches and not the change events: an event may be missed, a row stays. What is older than the lease and
has no row is put before admin again, unless the catalog looks as if it were lost: then that is for a rebuild to mend.
"""

from __future__ import annotations

from artstore.logs import get_logger

from ..store.store import Store
from .align import AT_ONCE, Align
from .rows import Rows

log = get_logger("element.upkeep")

BATCH = 2000
YOUNG_S = 30.0
"""Uploads are committed within seconds: the young are asked for in each round, the rest every so many rounds."""
ALL_EVERY_ROUNDS = 15


class Confirm:
    """One per process; `round` is called every few seconds."""

    def __init__(self, store: Store, rows: Rows, align: Align, lease_s: float) -> None:
        self._store, self._rows, self._align, self._lease_s = store, rows, align, lease_s
        self._rounds = 0
        self.suspended = False
        """While a rebuild decides about the same files."""
        self.catalog_lost = False

    async def round(self) -> None:
        """Raises Unavailable while the catalog is away."""
        everything = self._rounds % ALL_EVERY_ROUNDS == 0
        self._rounds += 1
        now_s = self._store.clock.unix_s()
        since_s = 0.0 if everything else now_s - YOUNG_S
        unconfirmed = self._store.unconfirmed
        asked = {file_id: known for file_id, known in unconfirmed.items() if known.since_s >= since_s}
        file_ids = list(asked)
        for start in range(0, len(file_ids), BATCH):
            available = await self._rows.find_available(file_ids[start : start + BATCH])
            # Put again by another saga while the catalog answered: that one is not confirmed.
            self._store.confirm(file_id for file_id in available if unconfirmed.get(file_id) is asked[file_id])
        if everything and not self.suspended:
            await self._put_before_admin(now_s)

    async def _put_before_admin(self, now_s: float) -> None:
        old = [
            file_id
            for file_id, known in self._store.unconfirmed.items()
            if now_s - known.since_s > self._lease_s and file_id not in self._store.unsettled
        ]
        if not old:
            return
        kept = self._store.usage.files > len(self._store.unconfirmed)
        self.catalog_lost = kept and not await self._rows.any_available()
        if self.catalog_lost:
            log.warning("the catalog has none of this element's files: rebuild it", unconfirmed=len(old))
            return
        for start in range(0, len(old), AT_ONCE):
            await self._align.align(old[start : start + AT_ONCE], "confirm", "undo")
