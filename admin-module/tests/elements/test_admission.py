"""The admission of reports, as a table."""

from __future__ import annotations

import pytest

from app.elements.admission import VACANT, Admission, KnownRoot, decide_admission, mode_to_keep
from artstore.contracts.elements import Capacity, ElementReport, Fill, Mode

EMPTY = Capacity(total_bytes=0, used_bytes=0, available_bytes=0, files=0, fill=Fill.FULL)
KNOWN = KnownRoot("A", 7, "one")
NEW, LEGACY, FREE = None, KnownRoot(None, 0, ""), KnownRoot(VACANT, 0, "")
JUST_ACCEPTED = KnownRoot("A", 7, "")


def reported(
    root_id: str | None, incarnation: int = 7, instance: str = "one", *, fenced: bool = False, mode: Mode = Mode.RW
) -> ElementReport:
    return ElementReport(
        id="se-01", url="http://127.0.0.1:1", mode=mode, backend="local", version="0", capacity=EMPTY,
        root_id=root_id, incarnation=incarnation, instance=instance, fenced=fenced,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("known", "report", "serving", "verdict"),
    [
        # No root at the path: an unknown element may create one; a known element has lost its disk.
        (NEW, reported(""), None, Admission.MAKE_ROOT),
        (FREE, reported(""), None, Admission.MAKE_ROOT),
        (KNOWN, reported(""), None, Admission.ROOT_REFUSED),
        (LEGACY, reported(""), None, Admission.ROOT_REFUSED),
        # An unknown root, and an element from before root ids
        (NEW, reported("A"), None, Admission.ACCEPTED),
        (LEGACY, reported("A"), None, Admission.ACCEPTED),
        (FREE, reported("A"), None, Admission.ACCEPTED),
        (LEGACY, reported(None), None, Admission.ACCEPTED),
        (NEW, reported("A", fenced=True), None, Admission.FENCED),
        (FREE, reported("A", fenced=True), None, Admission.FENCED),
        # Another root
        (KNOWN, reported("B"), None, Admission.ROOT_REFUSED),
        (KNOWN, reported("B", 99), None, Admission.ROOT_REFUSED),
        (KNOWN, reported(None), None, Admission.ROOT_REFUSED),
        # The same root: the same process, a start after it, a copy from before it, a copy of the same age
        (KNOWN, reported("A"), None, Admission.ACCEPTED),
        (KNOWN, reported("A", 8, "two"), None, Admission.ACCEPTED),
        (KNOWN, reported("A", 6, "two"), None, Admission.FENCED),
        (KNOWN, reported("A", 7, "two"), None, Admission.FENCED),
        # A start after it at another place, while the former one serves, and while something else does
        (KNOWN, reported("A", 8, "two"), "one", Admission.FENCED),
        (KNOWN, reported("A", 8, "two"), "three", Admission.ACCEPTED),
        # Refused before: only an operator's word counts
        (KNOWN, reported("A", 8, "two", fenced=True), None, Admission.FENCED),
        (JUST_ACCEPTED, reported("A", 7, "two", fenced=True), None, Admission.ACCEPTED),
        (JUST_ACCEPTED, reported("A", 6, "two", fenced=True), None, Admission.FENCED),
    ],
)
def test_the_admission_of_a_report(
    known: KnownRoot | None, report: ElementReport, serving: str | None, verdict: Admission
) -> None:
    assert decide_admission(known, report, serving).admission is verdict


@pytest.mark.parametrize("known", [None, *Mode])
@pytest.mark.parametrize("mode", Mode)
def test_a_mode_goes_back_only_when_forced(known: Mode | None, mode: Mode) -> None:
    order = list(Mode)
    kept = mode_to_keep(known, reported("A", mode=mode))
    assert kept is (mode if known is None or order.index(mode) >= order.index(known) else known)
    forced = ElementReport(
        id="se-01", url="http://127.0.0.1:1", mode=mode, backend="local", version="0", capacity=EMPTY, mode_forced=True
    )
    assert mode_to_keep(known, forced) is mode
