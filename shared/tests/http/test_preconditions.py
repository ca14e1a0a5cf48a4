from __future__ import annotations

from datetime import UTC, datetime

import pytest

from artstore.errors import RangeNotSatisfiable, RevisionMismatch
from artstore.http.preconditions import Plan, Validators, conditions_in, plan
from artstore.http.ranges import ByteRange

ETAG = '"sha256:aa"'
BEFORE = "Thu, 01 Jan 2026 11:59:59 GMT"
SAME = "Thu, 01 Jan 2026 12:00:00 GMT"
AFTER = "Thu, 01 Jan 2026 12:00:01 GMT"
MOMENT = datetime(2026, 1, 1, 12, tzinfo=UTC)
FIRST_REVISION = Validators(etag=ETAG, last_modified=MOMENT, date_is_strong=True)
LATER_REVISION = Validators(etag=ETAG, last_modified=MOMENT, date_is_strong=False)
WHOLE = Plan(200)
UNCHANGED = Plan(304)
PART = Plan(206, ByteRange(1, 2))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, WHOLE),
        ({"if-none-match": ETAG}, UNCHANGED),
        ({"if-none-match": f"W/{ETAG}"}, UNCHANGED),
        ({"if-none-match": f'"other", {ETAG}'}, UNCHANGED),
        ({"if-none-match": "*"}, UNCHANGED),
        ({"if-none-match": '"other"'}, WHOLE),
        ({"if-none-match": "sha256:aa"}, WHOLE),
        ({"if-none-match": ""}, WHOLE),
        ({"if-modified-since": SAME}, UNCHANGED),
        ({"if-modified-since": AFTER}, UNCHANGED),
        ({"if-modified-since": BEFORE}, WHOLE),
        ({"if-modified-since": "yesterday"}, WHOLE),
        ({"if-modified-since": "Thursday, 01-Jan-26 12:00:00 GMT"}, UNCHANGED),
        ({"if-modified-since": "Thu Jan  1 12:00:00 2026"}, UNCHANGED),
        # If-None-Match is there: If-Modified-Since is not looked at
        ({"if-none-match": '"other"', "if-modified-since": AFTER}, WHOLE),
        ({"if-none-match": ETAG, "if-modified-since": BEFORE}, UNCHANGED),
        ({"if-match": ETAG}, WHOLE),
        ({"if-match": f'"other", {ETAG}'}, WHOLE),
        ({"if-match": "*"}, WHOLE),
        ({"if-match": ETAG, "if-none-match": ETAG}, UNCHANGED),
        # If-Match is there: If-Unmodified-Since is not looked at
        ({"if-match": ETAG, "if-unmodified-since": BEFORE}, WHOLE),
        ({"if-unmodified-since": SAME}, WHOLE),
        ({"if-unmodified-since": AFTER}, WHOLE),
        ({"if-unmodified-since": "never"}, WHOLE),
        ({"range": "bytes=1-2"}, PART),
        ({"range": "bytes=1-2,4-5"}, WHOLE),
        ({"range": "bytes=1-2", "if-range": ETAG}, PART),
        ({"range": "bytes=1-2", "if-range": '"other"'}, WHOLE),
        ({"range": "bytes=1-2", "if-range": f"W/{ETAG}"}, WHOLE),
        ({"range": "bytes=1-2", "if-range": SAME}, PART),
        ({"range": "bytes=1-2", "if-range": AFTER}, WHOLE),
        ({"range": "bytes=1-2", "if-range": "garbage"}, WHOLE),
        # a condition that fails keeps an impossible range from mattering
        ({"range": "bytes=99-", "if-range": '"other"'}, WHOLE),
        ({"range": "bytes=99-", "if-none-match": ETAG}, UNCHANGED),
        ({"range": "bytes=1-2", "if-none-match": '"other"'}, PART),
        ({"if-range": ETAG}, WHOLE),
    ],
)
def test_conditions_are_evaluated_in_the_order_of_rfc_9110(headers: dict[str, str], expected: Plan) -> None:
    assert plan("GET", headers, FIRST_REVISION, 10) == expected


@pytest.mark.parametrize(
    "headers",
    [
        {"if-match": '"other"'},
        {"if-match": f"W/{ETAG}"},
        {"if-match": ""},
        {"if-unmodified-since": BEFORE},
        {"if-match": '"other"', "if-unmodified-since": AFTER},
        {"if-match": '"other"', "if-none-match": ETAG},
        {"if-match": '"other"', "range": "bytes=99-"},
    ],
)
def test_a_failed_precondition_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(RevisionMismatch):
        plan("GET", headers, FIRST_REVISION, 10)


def test_if_range_ignores_a_weak_date() -> None:
    assert plan("GET", {"range": "bytes=1-2", "if-range": SAME}, LATER_REVISION, 10) == WHOLE


def test_a_range_outside_the_file_is_not_satisfiable() -> None:
    with pytest.raises(RangeNotSatisfiable):
        plan("GET", {"range": "bytes=10-"}, FIRST_REVISION, 10)


def test_head_evaluates_conditions_and_ignores_ranges() -> None:
    assert plan("HEAD", {"range": "bytes=10-"}, FIRST_REVISION, 10) == WHOLE
    assert plan("HEAD", {"if-none-match": ETAG}, FIRST_REVISION, 10) == UNCHANGED


def test_repeated_header_lines_are_one_list() -> None:
    lines = [(b"if-none-match", b'"other"'), (b"accept", b"*/*"), (b"if-none-match", ETAG.encode())]
    assert plan("GET", conditions_in(lines), FIRST_REVISION, 10) == UNCHANGED
    lines = [(b"if-match", b'"other"'), (b"if-match", ETAG.encode())]
    assert plan("GET", conditions_in(lines), FIRST_REVISION, 10) == WHOLE
    assert conditions_in([(b"host", b"a")]) == {}
