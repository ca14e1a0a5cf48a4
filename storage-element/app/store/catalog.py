"""What the store asks of the catalog. The store never trusts it over its own disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from artstore.contracts.events import Change
from artstore.contracts.files import Attributes
from artstore.errors import Unavailable


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """How the catalog knows a file: the saga that put it, and whether that saga was committed."""

    saga_id: str | None
    available: bool


class RowRefused(Unavailable):
    """The catalog is there and does not take this row; it takes others."""


class Catalog(Protocol):
    """Raises RowRefused, and Unavailable when it is away: then the call may have taken effect, and it is repeated later."""

    async def note(self, attributes: Attributes, *, saga_id: str | None, change: Change) -> None:
        """The row (pending while `saga_id` is given), only over a lower revision, and the change event: one transaction."""

    async def forget(self, file_id: str, *, revision: int) -> None:
        """Remove this element's row and tell of a delete at `revision`: one transaction. No row is no error."""

    async def find_standing(self, file_id: str) -> CatalogEntry | None: ...

    def notify(self) -> None:
        """Wake whoever publishes the change events. Does not wait and does not fail."""
