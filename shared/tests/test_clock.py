from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artstore.clock import Clock, parse_rfc3339, rfc3339, uuid7, uuid7_hex

MOMENTS = st.datetimes(
    min_value=datetime(1000, 1, 2),  # noqa: DTZ001  (hypothesis adds the zone)
    max_value=datetime(9999, 12, 30),  # noqa: DTZ001
    timezones=st.integers(-23, 23).map(lambda hours: timezone(timedelta(hours=hours))),
)

BEYOND = ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00")


@given(MOMENTS)
def test_a_moment_survives_being_written_down(moment: datetime) -> None:
    assert parse_rfc3339(rfc3339(moment)) == moment


def test_moments_are_written_in_utc_with_six_digits() -> None:
    moment = datetime(2026, 1, 1, 3, tzinfo=timezone(timedelta(hours=3)))
    assert rfc3339(moment) == "2026-01-01T00:00:00.000000Z"


@pytest.mark.parametrize("text", ["", "2026-01-01", "2026-01-01T00:00:00", "tomorrow", "2026-13-01T00:00:00Z", *BEYOND])
def test_a_text_without_offset_or_sense_is_no_moment(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_rfc3339(text)


@given(st.integers(0, 2**48 - 1))
def test_an_id_is_a_version_7_uuid_with_its_time(unix_ms: int) -> None:
    made = uuid7(unix_ms)
    assert made.version == 7
    assert made.variant == "specified in RFC 4122"
    assert made.int >> 80 == unix_ms


def test_ids_of_one_millisecond_differ() -> None:
    assert len({uuid7(0) for _ in range(1000)}) == 1000


def test_the_wall_clock_is_aware() -> None:
    assert Clock().now().tzinfo is UTC


def test_the_digits_alone_are_such_an_id_too() -> None:
    made = [UUID(uuid7_hex()) for _ in range(1000)]
    assert {one.version for one in made} == {7}
    assert {one.variant for one in made} == {"specified in RFC 4122"}
    assert len(set(made)) == len(made)
