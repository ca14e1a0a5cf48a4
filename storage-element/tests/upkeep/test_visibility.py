from __future__ import annotations

import itertools

import pytest

from app.upkeep.rebuild import refusal
from app.upkeep.scrub import Throttle
from app.upkeep.visibility import KnownRow, KnownSaga, Visibility, visibility

HERE, PENDING_ROW, OTHER = KnownRow(True, True), KnownRow(False, True), KnownRow(True, False)


@pytest.mark.parametrize(
    ("row", "saga", "expected"),
    [
        (None, None, Visibility.AVAILABLE),
        (HERE, None, Visibility.AVAILABLE),
        (HERE, KnownSaga("committed", True, True), Visibility.AVAILABLE),
        (HERE, KnownSaga(None, True, False), Visibility.AVAILABLE),
        (OTHER, KnownSaga("committed", False, True), Visibility.ELSEWHERE),
        (None, KnownSaga("committed", True, False), Visibility.AVAILABLE),
        (PENDING_ROW, KnownSaga("committed", True, False), Visibility.AVAILABLE),
        (None, KnownSaga("committed", False, True), Visibility.ELSEWHERE),
        (None, KnownSaga("begun", True, False), Visibility.PENDING),
        (None, KnownSaga("begun", True, True), Visibility.PENDING),
        (PENDING_ROW, KnownSaga("compensating", True, True), Visibility.PENDING),
        (None, KnownSaga("compensated", True, True), Visibility.PENDING),
        (PENDING_ROW, KnownSaga(None, True, True), Visibility.PENDING),
        (PENDING_ROW, KnownSaga(None, True, False), Visibility.WAIT),
        (PENDING_ROW, KnownSaga(None, True, True, old=True), Visibility.AVAILABLE),
        (None, KnownSaga(None, True, True, old=True), Visibility.AVAILABLE),
        (None, KnownSaga(None, True, True, old=True, compensated=True), Visibility.PENDING),
        (PENDING_ROW, KnownSaga("begun", True, True, old=True), Visibility.PENDING),
        (None, KnownSaga("compensated", True, True, old=True), Visibility.PENDING),
        (None, KnownSaga(None, True, False), Visibility.WAIT),
    ],
)
def test_visibility_follows_the_catalog_and_the_sagas(
    row: KnownRow | None, saga: KnownSaga | None, expected: Visibility
) -> None:
    assert visibility(row, saga, "keep") is expected
    assert visibility(row, saga, "undo") is expected


def test_an_unknown_file_is_kept_by_a_rebuild_and_undone_otherwise() -> None:
    nobody = KnownSaga(None, True, lease_over=True)
    assert visibility(None, nobody, "keep") is Visibility.AVAILABLE
    assert visibility(None, nobody, "undo") is Visibility.PENDING


def test_an_open_saga_never_becomes_available_by_upkeep() -> None:
    for row, state, over in itertools.product(
        (None, PENDING_ROW), ("begun", "compensating", "compensated"), (True, False)
    ):
        saga = KnownSaga(state, True, over)
        assert {visibility(row, saga, "keep"), visibility(row, saga, "undo")} == {Visibility.PENDING}


@pytest.mark.parametrize(
    ("found", "missing", "mounted", "forced", "counted", "refused"),
    [
        (0, 0, True, False, None, False),
        (0, 0, False, False, None, False),
        (0, 1, True, False, None, True),
        (0, 1, True, True, None, False),
        (1, 100, True, False, None, False),
        (1, 101, True, False, None, True),
        (1000, 900, True, False, None, False),
        (1000, 1001, True, False, None, True),
        (1000, 1, False, False, None, True),
        (1000, 1001, False, True, None, False),
        (10, 1000, True, False, 10, False),
        (0, 1000, True, False, 0, False),
        (0, 1000, True, False, 10, True),
        (5, 1000, True, False, 10, True),
        (10, 1000, False, False, 10, True),
    ],
)
def test_rows_are_kept_when_the_disk_looks_absent(
    found: int, missing: int, mounted: bool, forced: bool, counted: int | None, refused: bool
) -> None:
    assert (refusal(found, missing, mounted=mounted, forced=forced, counted=counted) is not None) is refused


def test_the_throttle_limits_the_rate_whatever_the_pieces() -> None:
    pace, now_s = Throttle(1000), 5.0
    for size_bytes in (100, 1, 899):
        now_s += pace.pause_s(size_bytes, now_s)
    assert now_s == pytest.approx(6.0)
    assert pace.pause_s(1000, 100.0) == pytest.approx(1.0)
    assert Throttle(0).pause_s(1 << 30, 0.0) == 0
