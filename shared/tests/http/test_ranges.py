from __future__ import annotations

import pytest

from artstore.errors import RangeNotSatisfiable
from artstore.http.ranges import ByteRange, choose_range

HUGE = "9" * 5000


@pytest.mark.parametrize(
    ("field", "size_bytes", "expected"),
    [
        ("bytes=0-0", 10, (0, 0)),
        ("bytes=0-9", 10, (0, 9)),
        ("bytes=0-99", 10, (0, 9)),
        ("bytes=2-5", 10, (2, 5)),
        ("bytes=9-9", 10, (9, 9)),
        ("bytes=3-", 10, (3, 9)),
        ("bytes=-3", 10, (7, 9)),
        ("bytes=-10", 10, (0, 9)),
        ("bytes=-99", 10, (0, 9)),
        ("bytes=0-" + HUGE, 10, (0, 9)),
        ("bytes=-" + HUGE, 10, (0, 9)),
        ("bytes=0000000000000000000000001-2", 10, (1, 2)),
        ("BYTES=0-1", 10, (0, 1)),
        ("bytes= 0-1 ", 10, (0, 1)),
        ("bytes=0-1,", 10, (0, 1)),
    ],
)
def test_a_single_range_is_served(field: str, size_bytes: int, expected: tuple[int, int]) -> None:
    assert choose_range(field, size_bytes) == ByteRange(*expected)


@pytest.mark.parametrize(
    "field",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=,",
        "bytes=a-b",
        "bytes=1",
        "bytes=5-4",
        "bytes=1-2-3",
        "bytes=-1-2",
        "bytes=+1-2",
        "bytes=1.0-2",
        "bytes=0-1,3-4",
        "bytes=٠-١",
        "items=0-1",
        "0-1",
    ],
)
def test_a_malformed_or_multiple_range_is_ignored(field: str) -> None:
    assert choose_range(field, 10) is None


@pytest.mark.parametrize(
    ("field", "size_bytes"),
    [
        ("bytes=10-", 10),
        ("bytes=10-10", 10),
        (f"bytes={HUGE}-", 10),
        ("bytes=-0", 10),
        ("bytes=0-0", 0),
        ("bytes=-0", 0),
    ],
)
def test_a_range_outside_the_file_says_how_long_the_file_is(field: str, size_bytes: int) -> None:
    with pytest.raises(RangeNotSatisfiable) as caught:
        choose_range(field, size_bytes)
    assert caught.value.headers()["content-range"] == f"bytes */{size_bytes}"


@pytest.mark.parametrize("field", ["bytes=-5", "bytes=0-"])
def test_an_empty_file_is_whole_for_a_request_of_all_or_of_its_tail(field: str) -> None:
    assert choose_range(field, 0) is None


def test_a_range_knows_its_length() -> None:
    assert ByteRange(2, 5).length == 4
