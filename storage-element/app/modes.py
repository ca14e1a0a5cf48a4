"""edit, rw, ro, ar: what each allows and how an element gets from one to the next. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class StartMode:
    """The mode to start in; `warning` says what of the configuration was not followed."""

    mode: Mode
    warning: str | None = None


def require(mode: Mode, operation: Operation) -> None:
    """Raises ModeForbids."""
    if operation not in ALLOWED[mode]:
        raise ModeForbids(f"an element in mode {mode} does not {operation}", mode=mode, operation=operation)


def check_change(mode: Mode, wanted: Mode) -> bool:
    """True when the API may take the element there, False when it is there already. Raises Conflict."""
    if wanted is mode:
        return False
    if NEXT_BY_API.get(mode) is not wanted:
        raise Conflict(f"no way from {mode} to {wanted} while running", mode=mode, wanted=wanted)
    return True


def start_mode(kept: Mode | None, configured: Mode, *, force: bool) -> StartMode:
    """A configured mode further along is taken; one further back only by force, so that a restart undoes nothing."""
    if kept is None or ROW.index(configured) >= ROW.index(kept):
        return StartMode(configured)
    if force:
        return StartMode(configured, f"forced from {kept} back to {configured}")
    return StartMode(kept, f"configured {configured} is further back than {kept}, which stays")
