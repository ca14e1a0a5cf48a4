"""The store's view of the catalog. The store never trusts the catalog over its own disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from artstore.contracts.events import Change
from artstore.contracts.files import Attributes
from artstore.errors import Unavailable


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """The catalog's knowledge of a file: the saga that put it, and whether that saga was committed."""

    saga_id: str | None
    available: bool


class RowRefused(Unavailable):
    """The catalog answers but refuses this row; it accepts others."""


class Catalog(Protocol):
    """Raises RowRefused, and Unavailable when it does not answer: then the call may have taken effect, and is repeated later."""

    @property
    def answers(self) -> bool:
        """True if the last call was answered."""

    async def note(self, attributes: Attributes, *, saga_id: str | None, change: Change) -> None:
        """Write the row and the change event in one transaction. The row is pending while `saga_id` is given, and written only
        over a lower revision."""

    async def forget(self, file_id: str, *, revision: int) -> None:
        """Remove this element's row and write a delete event at `revision` in one transaction. A missing row is not an error."""

    async def find_available(self, file_ids: Sequence[str]) -> set[str]:
        """Those whose row is available on this element, in one round trip."""

    async def find_entry(self, file_id: str) -> CatalogEntry | None: ...

    def notify(self) -> None:
        """Wake the relay of change events. Does not wait and does not fail."""
