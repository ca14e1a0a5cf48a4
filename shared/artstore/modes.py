"""edit, rw, ro, ar: what each allows and how an element gets from one to the next. Pure.

The element decides by it; the others see by it what a wait for an element could never bring.
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
    """Raises ModeForbids."""
    if operation not in ALLOWED[mode]:
        raise ModeForbids(f"an element in mode {mode} does not {operation}", mode=mode, operation=operation)


def check_change(mode: Mode, wanted: Mode) -> bool:
    """True when the API may take the element there, False when it is there already. Raises Conflict."""
    if wanted is mode:
        return False
    if NEXT_BY_API.get(mode) is not wanted:
        raise Conflict(f"a running element cannot go from mode {mode} to {wanted}", mode=mode, wanted=wanted)
    return True
