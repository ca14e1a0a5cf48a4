"""Having admin remember a change."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from artstore.contracts.elements import Element
from artstore.contracts.files import Changes
from artstore.contracts.sagas import QueueChange, SagaKind
from artstore.errors import InvalidFields
from artstore.modes import Operation, require

from ..core.context import Context
from .wish import Wish


@dataclass(frozen=True, slots=True)
class Queued:
    """Durably remembered: made when the element is back. `saga` is what GET of it shows, as JSON."""

    saga_id: str
    saga: bytes


async def queue(
    context: Context, element: Element, wish: Wish, kind: SagaKind, operation: Operation, changes: bytes | None
) -> Queued:
    """Raises Unavailable when admin is away too, ModeForbids for what a wait could not bring: modes only go forward."""
    require(element.mode, operation)
    wanted = None if changes is None else msgspec.json.decode(changes, type=Changes)
    if wanted == Changes():
        raise InvalidFields("nothing to change", fields=["filename", "tags", "metadata"])
    change = QueueChange(
        saga_id=wish.saga_id,
        kind=kind,
        file_id=wish.file_id,
        storage_element_id=element.id,
        owner=wish.owner,
        changes=wanted,
        if_revisions=None if wish.if_revisions is None else list(wish.if_revisions),
        keyed=wish.keyed,
    )
    return Queued(wish.saga_id, await context.sagas.queue(change))
