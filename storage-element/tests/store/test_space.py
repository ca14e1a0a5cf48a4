"""How much of a disk puts leave free."""

from __future__ import annotations

import pytest

from app.store.space import Reserve, reserved_bytes

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40


@pytest.mark.parametrize(
    ("total_bytes", "stated_bytes", "expected"),
    [
        (100 * GIB, None, GIB),  # 1 %
        (10 * GIB, None, 256 * MIB),  # the least
        (10 * TIB, None, 10 * GIB),  # the most
        (100 * MIB, None, 50 * MIB),  # half of a small disk
        (100 * GIB, MIB, MIB),  # an operator's value counts alone
        (100 * GIB, 0, 0),
        (GIB, TIB, GIB // 2),
    ],
)
def test_the_reserve_fits_the_disk(total_bytes: int, stated_bytes: int | None, expected: int) -> None:
    assert abs(reserved_bytes(total_bytes, Reserve(stated_bytes)) - expected) <= 1
