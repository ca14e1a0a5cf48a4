"""Decides whether the memory of an element shows that this database was rolled back. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from artstore.contracts.elements import CatalogMemory


@dataclass(frozen=True, slots=True)
class CatalogState:
    """The records of this database. `sent`: registry versions sent to the element since the one it last
    acknowledged."""

    generation: int
    version: int
    sent: Sequence[int]


def find_rollback(memory: CatalogMemory, known: CatalogState) -> str | None:
    """Why this database cannot be the one that the element knew, or None.

    An element that has not acknowledged the present generation proves nothing: the change of generation
    explains it.
    """
    if max(memory.generation, memory.version_generation) > known.generation:
        return "the element knows a later generation"
    if memory.generation == known.generation and memory.doubt:
        return memory.doubt
    if memory.version_generation != known.generation:
        return None
    if memory.version > known.version:
        return "the element knows a later version of the registry"
    if not known.sent and not memory.empty:
        return "the element's last report was not to this database"
    if known.sent and memory.version > min(known.sent) and memory.version not in known.sent:
        return "the element was answered with a version that this database never had"
    return None
