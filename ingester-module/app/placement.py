"""Which elements may take a new file, best first: one pure decision."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from artstore.contracts.elements import Element, Fill, Mode
from artstore.contracts.files import MAX_ATTRIBUTES_BYTES, Retention
from artstore.errors import StorageFull, Unavailable

WANTED_MODE: dict[Retention, Mode] = {"permanent": Mode.RW, "temporary": Mode.EDIT}
AWAY = "away"


def candidates(
    elements: Iterable[Element], *, size_bytes: int, retention: Retention, broken: Collection[str]
) -> list[Element]:
    """Elements that may take `size_bytes`, lowest priority number first: one is filled, then the next.

    `size_bytes` is 0 where nobody knows it; `broken` holds the ids whose breaker is open. With none left it raises
    StorageFull when room is all that lacks, else Unavailable; both say why of every element.
    """
    wanted = WANTED_MODE[retention]
    fit: list[Element] = []
    reasons: dict[str, str] = {}
    for element in elements:
        if reason := _why_not(element, wanted, size_bytes, element.id in broken):
            reasons[element.id] = reason
        else:
            fit.append(element)
    if not fit:
        raise _none_left(wanted, reasons)
    return sorted(fit, key=lambda element: (element.priority, element.id))


def _why_not(element: Element, wanted: Mode, size_bytes: int, broken: bool) -> str:
    if element.mode is not wanted:
        return f"mode {element.mode}"
    if element.read_only_reason is not None:
        return "read-only"
    if element.status == AWAY:
        return AWAY
    if broken:
        return "failing"
    if element.capacity.fill is Fill.FULL or element.capacity.available_bytes < size_bytes + MAX_ATTRIBUTES_BYTES:
        return "no room"
    return ""


def _none_left(wanted: Mode, reasons: dict[str, str]) -> StorageFull | Unavailable:
    of_mode = {name: reason for name, reason in reasons.items() if not reason.startswith("mode ")}
    if not reasons:
        return Unavailable("no storage element is known")
    if not of_mode:
        return Unavailable(f"no storage element is in mode {wanted}", elements=reasons)
    if all(reason == "no room" for reason in of_mode.values()):
        return StorageFull(f"no storage element in mode {wanted} has room for this", elements=reasons)
    return Unavailable(f"no storage element in mode {wanted} can take a file now", elements=reasons)
