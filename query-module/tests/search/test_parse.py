from __future__ import annotations

import base64
from contextlib import suppress
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.search.parse import Cursor, Search, cursor_after, parse
from artstore.errors import InvalidFields

FILE_ID = "0197aaaa-0000-7000-8000-000000000001"
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ([], Search()),
        ([("limit", "1")], Search(limit=1)),
        ([("limit", "1000")], Search(limit=1000)),
        ([("filename", "Договор")], Search(filename="Договор")),
        ([("tag", "a"), ("tag", "b")], Search(tags=("a", "b"))),
        ([("metadata.number", "5"), ("metadata.a.b", "")], Search(metadata={"number": "5", "a.b": ""})),
        ([("content_type", "text/plain"), ("owner", "me")], Search(content_type="text/plain", owner="me")),
        ([("created_from", "2026-01-01T00:00:00Z")], Search(created_from=MOMENT)),
        ([("created_to", "2026-01-01T03:00:00+03:00")], Search(created_to=MOMENT)),
        ([("created_to", "2026-01-01T03:00:00 03:00")], Search(created_to=MOMENT)),
        ([("size_min", "0"), ("size_max", "9223372036854775807")], Search(size_min=0, size_max=2**63 - 1)),
        ([("count", "true")], Search(count=True)),
        ([("sort", "filename")], Search(sort="filename", descending=False)),
        ([("sort", "-size_bytes")], Search(sort="size_bytes", descending=True)),
    ],
)
def test_parameters_are_parsed(parameters: list[tuple[str, str]], expected: Search) -> None:
    assert parse(parameters) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("q", ""),
        ("tag", ""),
        ("count", "1"),
        ("unknown", "x"),
        ("Limit", "1"),
        ("metadata.", "x"),
        ("metadata.\x00", "5"),
        ("metadata.a\x00b", "5"),
        ("metadata." + "x" * 1024, "5"),
        ("metadata", "x"),
        ("limit", "0"),
        ("limit", "1001"),
        ("limit", "-1"),
        ("limit", "1.5"),
        ("limit", ""),
        ("limit", "٣"),
        ("limit", "9" * 400),
        ("size_min", "-1"),
        ("size_max", "9223372036854775808"),
        ("created_from", "yesterday"),
        ("created_from", "2026-01-01"),
        ("created_from", "2026-01-01T00:00:00"),
        ("created_to", "0001-01-01T00:00:00+14:00"),
        ("sort", "owner"),
        ("sort", "--filename"),
        ("sort", ""),
        ("filename", ""),
        ("filename", "a\x00b"),
        ("owner", "x" * 1025),
        ("cursor", "!"),
        ("cursor", ""),
        ("cursor", "bnVsbA"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(InvalidFields) as caught:
        parse([(name, value)])
    assert caught.value.fields["fields"] == [name]


def test_a_parameter_given_twice_is_refused() -> None:
    with pytest.raises(InvalidFields):
        parse([("owner", "a"), ("owner", "b")])


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(InvalidFields) as caught:
        parse([("limit", "0"), ("owner", "me"), ("nonsense", "")])
    assert caught.value.fields["fields"] == ["limit", "nonsense"]


def test_too_many_parameters_are_refused() -> None:
    with pytest.raises(InvalidFields):
        parse([("tag", "x")] * 33)


@pytest.mark.parametrize(
    ("search", "value"),
    [
        (Search(), "2026-01-01T00:00:00.000000Z"),
        (Search(sort="filename", descending=False), "имя"),
        (Search(sort="size_bytes"), 2**63 - 1),
    ],
)
def test_a_cursor_round_trips(search: Search, value: str | int) -> None:
    order = f"-{search.sort}" if search.descending else search.sort
    again = parse([("cursor", cursor_after(search, value, FILE_ID)), ("sort", order)])
    assert again.cursor == Cursor(value, FILE_ID)


def test_a_cursor_of_a_different_order_is_refused() -> None:
    with pytest.raises(InvalidFields):
        parse([("cursor", cursor_after(Search(sort="filename"), "x", FILE_ID))])


@pytest.mark.parametrize(
    "inside",
    [
        [],
        {},
        None,
        "x",
        ["-created_at", "2026-01-01T00:00:00Z"],
        ["-created_at", "2026-01-01T00:00:00Z", "no-uuid"],
        ["-created_at", 5, FILE_ID],
        ["-created_at", "text", FILE_ID],
        ["-created_at", None, FILE_ID],
        ["-created_at", "0001-01-01T00:00:00+14:00", FILE_ID],
        ["-created_at", "9999-12-31T23:59:59-14:00", FILE_ID],
        [5, "2026-01-01T00:00:00Z", FILE_ID],
        ["-created_at", "2026-01-01T00:00:00Z", 5],
    ],
)
def test_a_forged_cursor_is_refused(inside: object) -> None:
    forged = base64.urlsafe_b64encode(orjson.dumps(inside)).decode().rstrip("=")
    with pytest.raises(InvalidFields):
        parse([("cursor", forged)])


@pytest.mark.parametrize("value", [True, -1, 2**63, 1.5, "5", None])
def test_a_forged_size_is_refused(value: object) -> None:
    inside = orjson.dumps(["-size_bytes", value, FILE_ID])
    with pytest.raises(InvalidFields):
        parse([("cursor", base64.urlsafe_b64encode(inside).decode()), ("sort", "-size_bytes")])


@given(
    st.lists(
        st.tuples(st.sampled_from(["cursor", "sort", "limit", "tag", "size_min", "created_to"]) | st.text(), st.text())
    )
)
def test_no_query_string_breaks_the_parser(parameters: list[tuple[str, str]]) -> None:
    with suppress(InvalidFields):
        assert 1 <= parse(parameters).limit <= 1000
