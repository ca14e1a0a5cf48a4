"""Does what an element remembers say that this database went back in time? Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from artstore.contracts.elements import CatalogMemory


@dataclass(frozen=True, slots=True)
class Known:
    """What this database says. `told`: versions answered to the element since the one it last acknowledged."""

    generation: int
    version: int
    told: Sequence[int]


def find_contradiction(memory: CatalogMemory, known: Known) -> str | None:
    """Why the database cannot be the one the element knew, or None.

    An element that has not acknowledged the present generation contradicts nothing: the present one explains it.
    """
    if max(memory.generation, memory.version_generation) > known.generation:
        return "the element knows a later generation"
    if memory.generation == known.generation and memory.doubt:
        return memory.doubt
    if memory.version_generation != known.generation:
        return None
    if memory.version > known.version:
        return "the element knows a later version of the registry"
    if not known.told and not memory.empty:
        return "the element's last report was not to this database"
    if known.told and memory.version > min(known.told) and memory.version not in known.told:
        return "the element was answered with a version that this database never had"
    return None
