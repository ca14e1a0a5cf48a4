"""The modes of an element (edit, rw, ro, ar): the operations that each allows, and the transitions between
them.

The element enforces them; other modules use them to see that waiting for an element would be useless.
"""

from __future__ import annotations

import enum

from artstore.contracts.elements import Mode
from artstore.errors import Conflict, ModeForbids


class Operation(enum.StrEnum):
    CREATE = "create"
    READ = "read"
    UPDATE = "update"
    DELETE = "delete"


ALLOWED: dict[Mode, frozenset[Operation]] = {
    Mode.EDIT: frozenset(Operation),
    Mode.RW: frozenset({Operation.CREATE, Operation.READ}),
    Mode.RO: frozenset({Operation.READ}),
    Mode.AR: frozenset({Operation.READ}),
}

NEXT_BY_API: dict[Mode, Mode] = {Mode.RW: Mode.RO, Mode.RO: Mode.AR}
"""edit → rw only by configuration and restart."""

ROW = tuple(Mode)


def require(mode: Mode, operation: Operation) -> None:
    """Raises ModeForbids unless the mode allows the operation."""
    if operation not in ALLOWED[mode]:
        raise ModeForbids(f"an element in mode {mode} does not allow {operation}", mode=mode, operation=operation)


def check_change(mode: Mode, wanted: Mode) -> bool:
    """True if the API may set the mode `wanted`, False if the element has it already. Raises Conflict
    otherwise."""
    if wanted is mode:
        return False
    if NEXT_BY_API.get(mode) is not wanted:
        raise Conflict(f"a running element cannot go from mode {mode} to {wanted}", mode=mode, wanted=wanted)
    return True
