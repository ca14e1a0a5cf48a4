from __future__ import annotations

import itertools

import pytest

from app.upkeep.guard import refusal
from app.upkeep.pace import Pace
from app.upkeep.standing import Row, Saga, Standing, standing

HERE, PENDING_ROW, OTHER = Row(True, True), Row(False, True), Row(True, False)


@pytest.mark.parametrize(
    ("row", "saga", "expected"),
    [
        (None, None, Standing.AVAILABLE),
        (HERE, None, Standing.AVAILABLE),
        (HERE, Saga("committed", True, True), Standing.AVAILABLE),
        (HERE, Saga(None, True, False), Standing.AVAILABLE),
        (OTHER, Saga("committed", False, True), Standing.ELSEWHERE),
        (None, Saga("committed", True, False), Standing.AVAILABLE),
        (PENDING_ROW, Saga("committed", True, False), Standing.AVAILABLE),
        (None, Saga("committed", False, True), Standing.ELSEWHERE),
        (None, Saga("begun", True, False), Standing.PENDING),
        (None, Saga("begun", True, True), Standing.PENDING),
        (PENDING_ROW, Saga("compensating", True, True), Standing.PENDING),
        (None, Saga("compensated", True, True), Standing.PENDING),
        (PENDING_ROW, Saga(None, True, True), Standing.PENDING),
        (PENDING_ROW, Saga(None, True, False), Standing.WAIT),
        (PENDING_ROW, Saga(None, True, True, old=True), Standing.AVAILABLE),
        (None, Saga(None, True, True, old=True), Standing.AVAILABLE),
        (None, Saga(None, True, True, old=True, compensated=True), Standing.PENDING),
        (PENDING_ROW, Saga("begun", True, True, old=True), Standing.PENDING),
        (None, Saga("compensated", True, True, old=True), Standing.PENDING),
        (None, Saga(None, True, False), Standing.WAIT),
    ],
)
def test_what_the_catalog_and_the_sagas_say_decides(row: Row | None, saga: Saga | None, expected: Standing) -> None:
    assert standing(row, saga, "keep") is expected
    assert standing(row, saga, "undo") is expected


def test_a_file_that_nobody_knows_is_kept_by_a_rebuild_and_undone_otherwise() -> None:
    nobody = Saga(None, True, lease_over=True)
    assert standing(None, nobody, "keep") is Standing.AVAILABLE
    assert standing(None, nobody, "undo") is Standing.PENDING


def test_an_open_saga_never_becomes_available_by_upkeep() -> None:
    for row, state, over, doubt in itertools.product(
        (None, PENDING_ROW), ("begun", "compensating", "compensated"), (True, False), ("keep", "undo")
    ):
        assert standing(row, Saga(state, True, over), doubt) is Standing.PENDING  # type: ignore[arg-type]


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
def test_rows_do_not_go_when_the_disk_looks_absent(
    found: int, missing: int, mounted: bool, forced: bool, counted: int | None, refused: bool
) -> None:
    assert (refusal(found, missing, mounted=mounted, forced=forced, counted=counted) is not None) is refused


def test_the_pace_adds_up_whatever_the_pieces() -> None:
    pace, now_s = Pace(1000), 5.0
    for size_bytes in (100, 1, 899):
        now_s += pace.pause_s(size_bytes, now_s)
    assert now_s == pytest.approx(6.0)
    assert pace.pause_s(1000, 100.0) == pytest.approx(1.0)
    assert Pace(0).pause_s(1 << 30, 0.0) == 0
