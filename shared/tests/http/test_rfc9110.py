"""Property tests of conditional and range requests against RFC 9110: an oracle that follows §13.2.2 step by step."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st

from artstore.contracts.files import check_filename
from artstore.errors import InvalidFields, RangeNotSatisfiable, RevisionMismatch
from artstore.http.content_head import content_disposition
from artstore.http.preconditions import Plan, Validators, http_date, plan
from artstore.http.ranges import ByteRange

ETAG = '"sha256:aa"'
MOMENT = datetime(2026, 1, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Tags:
    """A list of entity tags: as text, and whether the current one is in it."""

    text: str
    strongly: bool
    weakly: bool


def tags(given_tags: list[str]) -> Tags:
    strongly = ETAG in given_tags
    return Tags(", ".join(given_tags), strongly, strongly or f"W/{ETAG}" in given_tags)


tag_lists = st.lists(st.sampled_from([ETAG, f"W/{ETAG}", '"a"', '"a, b"', 'W/"b"']), min_size=1, max_size=4).map(tags)
conditions = tag_lists | st.just(Tags("*", True, True))
dates = st.sampled_from([-1, 0, 1]).map(lambda seconds: MOMENT + timedelta(seconds=seconds))
positions = st.integers(0, 12)
ranges = st.one_of(
    st.tuples(positions, positions).filter(lambda pair: pair[0] <= pair[1]),
    st.tuples(positions, st.none()),
    st.tuples(st.none(), positions),
)


def slice_of(content: bytes, asked: tuple[int | None, int | None]) -> bytes | None:
    """What §14.1.2 selects; None when it is not satisfiable."""
    first, last = asked
    if first is None:
        assert last is not None
        return content[max(0, len(content) - last) :] if last else None
    return content[first : len(content) if last is None else last + 1] if first < len(content) else None


@given(
    method=st.sampled_from(["GET", "HEAD"]),
    if_match=st.none() | conditions,
    if_unmodified_since=st.none() | dates,
    if_none_match=st.none() | conditions,
    if_modified_since=st.none() | dates,
    if_range=st.none() | st.sampled_from([ETAG, f"W/{ETAG}", '"a"']) | dates,
    asked=st.none() | ranges,
    size=st.integers(0, 10),
    date_is_strong=st.booleans(),
)
def test_the_answer_is_the_one_of_the_rfc(
    method: str,
    if_match: Tags | None,
    if_unmodified_since: datetime | None,
    if_none_match: Tags | None,
    if_modified_since: datetime | None,
    if_range: str | datetime | None,
    asked: tuple[int | None, int | None] | None,
    size: int,
    date_is_strong: bool,
) -> None:
    content = bytes(range(size))
    headers = {
        "if-match": if_match and if_match.text,
        "if-unmodified-since": if_unmodified_since and http_date(if_unmodified_since),
        "if-none-match": if_none_match and if_none_match.text,
        "if-modified-since": if_modified_since and http_date(if_modified_since),
        "if-range": http_date(if_range) if isinstance(if_range, datetime) else if_range,
        "range": asked and f"bytes={'' if asked[0] is None else asked[0]}-{'' if asked[1] is None else asked[1]}",
    }

    def expected() -> int | bytes:
        """The status, or the bytes of a 206."""
        if if_match is not None:  # 1.
            if not if_match.strongly:
                return 412
        elif if_unmodified_since is not None and if_unmodified_since < MOMENT:  # 2.
            return 412
        if if_none_match is not None:  # 3.
            if if_none_match.weakly:
                return 304
        elif if_modified_since is not None and if_modified_since >= MOMENT:  # 4.
            return 304
        if method != "GET" or asked is None:
            return 200
        if isinstance(if_range, datetime):  # 5.
            if not (date_is_strong and if_range == MOMENT):
                return 200
        elif if_range not in (None, ETAG):
            return 200
        part = slice_of(content, asked)
        if size == 0 and (asked == (0, None) or (asked[0] is None and asked[1])):
            return 200  # an empty file has no Content-Range
        return 416 if part is None else part

    def found() -> int | bytes:
        try:
            chosen = plan(
                method,
                {name: value for name, value in headers.items() if value},
                Validators(ETAG, MOMENT, date_is_strong),
                size,
            )
        except RevisionMismatch:
            return 412
        except RangeNotSatisfiable:
            return 416
        part = chosen.part
        return content[part.first : part.last + 1] if part else chosen.status

    assert found() == expected()


@given(st.text(max_size=60))
def test_a_field_that_is_not_one_range_selects_the_whole_file_or_a_part(field: str) -> None:
    try:
        chosen = plan("GET", {"range": field}, Validators(ETAG, MOMENT, True), 10)
    except RangeNotSatisfiable:
        return
    assert chosen == Plan(200) or (
        chosen.status == 206 and isinstance(chosen.part, ByteRange) and chosen.part.last < 10
    )


@given(st.text(min_size=1, max_size=80))
def test_every_name_that_is_stored_survives_the_header(filename: str) -> None:
    try:
        check_filename(filename)
    except InvalidFields:
        return
    field = content_disposition(filename)
    assert field.isascii()
    assert field.isprintable()
    kind, plain, exact = field.split("; ", 1)[0], *field.split("; ", 1)[1].rsplit("; ", 1)
    assert kind == "attachment"
    assert plain.startswith('filename="')
    assert plain.endswith('"')
    assert not set(plain[10:-1]) & set('"\\%')
    assert unquote(exact.removeprefix("filename*=UTF-8''"), errors="strict") == filename
