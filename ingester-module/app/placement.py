"""Placement: the elements that may take a new file, best first. A pure decision."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from artstore.contracts.elements import AWAY, Element, Fill, Mode
from artstore.contracts.files import MAX_ATTRIBUTES_BYTES, Retention
from artstore.errors import StorageFull, Unavailable

WANTED_MODE: dict[Retention, Mode] = {"permanent": Mode.RW, "temporary": Mode.EDIT}
EXPECTED_BYTES = 1 << 30
"""The expected size of a body without a stated length. It is large, because small bodies are read before
placement."""


def candidates(
    elements: Iterable[Element], *, size_bytes: int | None, retention: Retention, broken: Collection[str]
) -> list[Element]:
    """Elements that may take `size_bytes`, lowest priority number first, so that one is filled after the
    other.

    `size_bytes` is None when unknown. Then elements without space for EXPECTED_BYTES come last, the largest
    first, because a file that does not fit is found out only after part of it was sent. `broken` holds ids of
    elements with an open breaker.

    Raises StorageFull when space is all that is missing, else Unavailable; both give a reason for every
    element.
    """
    wanted = WANTED_MODE[retention]
    fit: list[Element] = []
    reasons: dict[str, str] = {}
    for element in elements:
        if reason := _obstacle(element, wanted, size_bytes or 0, element.id in broken):
            reasons[element.id] = reason
        else:
            fit.append(element)
    if not fit:
        raise _none_left(wanted, reasons)
    return sorted(fit, key=_rank_of_unknown if size_bytes is None else _rank)


def _rank(element: Element) -> tuple[int, str]:
    return element.priority, element.id


def _rank_of_unknown(element: Element) -> tuple[int, int, str]:
    free_bytes = element.capacity.available_bytes
    return (0, *_rank(element)) if free_bytes >= EXPECTED_BYTES + MAX_ATTRIBUTES_BYTES else (1, -free_bytes, element.id)


def _obstacle(element: Element, wanted: Mode, size_bytes: int, broken: bool) -> str:
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
