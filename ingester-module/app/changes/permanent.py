"""PATCH {"retention": "permanent"}: queued at admin, which moves the file to an `rw` element (docs/decisions/0013)."""

from __future__ import annotations

from artstore.contracts.idempotency import Answer, changed
from artstore.contracts.sagas import SagaKind
from artstore.contracts.storage import read_attributes
from artstore.errors import RevisionMismatch
from artstore.http.idempotency_key import fingerprint_of
from artstore.modes import Operation

from ..idempotency.keys import HeldKey
from ..placement import candidates
from .change import Change
from .locate import Location


class MakePermanent(Change):
    kind, operation = SagaKind.MOVE, Operation.UPDATE
    size_bytes: int | None = None
    """The size of the file; None when its element is unavailable."""

    def fingerprint(self) -> str:
        return fingerprint_of("PATCH", self.file_id, self.condition.revisions, "permanent")

    async def ask(self, location: Location) -> Answer:
        """The record of a file that is permanent already; else 202."""
        element = location.element
        record = await self.context.elements.load_attributes(element, self.file_id)
        now = read_attributes(record, element.id)
        if not self.condition.allows(now.revision):
            raise RevisionMismatch(f"the file is at revision {now.revision}", revision=now.revision)
        if now.retention == "permanent" and now.moving_to is None:
            return changed(record, f'"{now.revision}"')
        self.size_bytes = now.size_bytes
        return await self.queue(element)

    async def resume(self, key: HeldKey) -> Answer:
        return await self.run()

    def find_targets(self) -> list[str]:
        """Raises StorageFull, Unavailable."""
        elements, known = self.context.elements, self.context.discovery.elements
        broken = [element.id for element in known if elements.breaker_open(element)]
        fit = candidates(known, size_bytes=self.size_bytes, retention="permanent", broken=broken)
        return [element.id for element in fit]
