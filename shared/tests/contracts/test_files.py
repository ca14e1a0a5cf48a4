from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from artstore.contracts.files import (
    MAX_ATTRIBUTES_BYTES,
    Attributes,
    NewFile,
    check_filename,
    check_metadata,
    check_new_file,
    check_tags,
    decode,
    encode,
)
from artstore.errors import InvalidFields

FILE = Attributes(
    file_id="0197aaaa-0000-7000-8000-000000000001",
    revision=1,
    filename="Договор №5.pdf",
    content_type="application/pdf",
    size_bytes=1024,
    checksum="sha256:" + "0" * 64,
    storage_element_id="se-01",
    created_at="2026-01-01T00:00:00.000000Z",
    updated_at="2026-01-01T00:00:00.000000Z",
    owner="client",
    tags=["contract"],
    metadata={"number": "5"},
    retention="permanent",
    expires_at=None,
)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(TEXT, VALUES, max_size=4), st.lists(TEXT, max_size=4), st.dictionaries(TEXT, VALUES, max_size=2))
def test_what_is_encoded_is_decoded_the_same_with_fields_of_later_versions(
    metadata: dict[str, Any], tags: list[str], later: dict[str, Any]
) -> None:
    unknown = {f"x-{name}": value for name, value in later.items()}
    file = replace(FILE, metadata=metadata, tags=tags, unknown=unknown)
    encoded = encode(file)
    assert decode(encoded) == file
    assert encode(decode(encoded)) == encoded


def test_attr_json_is_sorted_and_names_its_schema() -> None:
    fields = list(orjson.loads(encode(FILE)))
    assert fields == sorted(fields)
    assert orjson.loads(encode(FILE))["schema_version"] == 1


@pytest.mark.parametrize("value", [{}, {"revision": 9}, 5, None])
def test_an_unknown_field_named_unknown_is_kept(value: Any) -> None:
    file = replace(FILE, unknown={"unknown": value})
    assert decode(encode(file)) == file


def test_an_unknown_field_cannot_shadow_a_known_one() -> None:
    assert decode(encode(replace(FILE, unknown={"revision": 9}))).revision == 1


def test_attributes_over_one_block_are_refused_both_ways() -> None:
    with pytest.raises(InvalidFields):
        encode(replace(FILE, metadata={"long": "x" * MAX_ATTRIBUTES_BYTES}))
    with pytest.raises(ValueError, match="the limit is 4096"):
        decode(b" " * (MAX_ATTRIBUTES_BYTES + 1))


@given(st.binary(max_size=200))
def test_no_damage_is_anything_but_a_value_error(damaged: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        decode(damaged)


@given(st.integers(0, len(encode(FILE)) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_seen_or_leaves_complete_attributes(place: int, flip: int) -> None:
    damaged = bytearray(encode(FILE))
    damaged[place] ^= flip
    try:
        found = decode(bytes(damaged))
    except ValueError:
        return
    assert found.revision >= 1
    assert len(found.checksum) == len(FILE.checksum)


@pytest.mark.parametrize(
    "changes",
    [
        {"schema_version": 2},
        {"schema_version": "1"},
        {"file_id": "x"},
        {"file_id": "0197AAAA-0000-7000-8000-000000000001"},
        {"revision": 0},
        {"revision": 1.5},
        {"revision": None},
        {"size_bytes": -1},
        {"checksum": "sha256:" + "0" * 63},
        {"checksum": "md5:" + "0" * 64},
        {"checksum": "sha256:" + "A" * 64},
        {"created_at": "yesterday"},
        {"updated_at": "2026-01-01T00:00:00"},
        {"expires_at": "never"},
        {"retention": "forever"},
        {"tags": "contract"},
        {"tags": [1]},
        {"metadata": []},
        {"filename": None},
    ],
)
def test_a_field_that_is_not_what_it_should_be_is_damage(changes: dict[str, Any]) -> None:
    damaged = orjson.dumps({**orjson.loads(encode(FILE)), **changes})
    with pytest.raises(ValueError, match=r".*"):
        decode(damaged)


@pytest.mark.parametrize("missing", sorted(set(orjson.loads(encode(FILE))) - {"schema_version"}))
def test_a_field_that_is_missing_is_damage(missing: str) -> None:
    fields = orjson.loads(encode(FILE))
    del fields[missing]
    with pytest.raises(ValueError, match=missing):
        decode(orjson.dumps(fields))


JOINED = ["👩\u200d🚀.png", "❤\ufe0f", "می\u200cخواهم.txt", "שלום\u200f.pdf", "é.txt", "e\u0301", "中文 名"]
HIDING = [" ", "\u3000\xa0", "\u200b", "\u200d", "\ufeff", "\u2060\u200c", "\u0301", "a\x85b", "a\x9f", "a\u2028b"]
TURNING = [f"evil{mark}fdp.exe" for mark in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"]


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "Договор №5.pdf",
        "🗄️",
        "x" * 255,
        "я" * 127,
        ".hidden",
        "a b",
        "..a",
        'qu"ote',
        "semi;colon",
        "%2e%2e",
        *JOINED,
    ],
)
def test_a_name_may_be_in_any_script(name: str) -> None:
    check_filename(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../a", "a\\b", "a\x00b", "a\nb", "\x7f", "x" * 256, "я" * 128, "a\ud800"]
)
def test_a_path_or_an_unprintable_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidFields) as caught:
        check_filename(name)
    assert caught.value.fields["fields"] == ["filename"]


@pytest.mark.parametrize("name", [*HIDING, *TURNING])
def test_a_name_that_shows_nothing_or_another_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidFields) as caught:
        check_filename(name)
    assert caught.value.fields["fields"] == ["filename"]


@pytest.mark.parametrize("tags", [[""], ["x" * 129], ["a\nb"], ["a"] * 65, ["\ud800"]])
def test_tags_have_bounds(tags: list[str]) -> None:
    with pytest.raises(InvalidFields):
        check_tags(tags)


def nested(depth: int) -> dict[str, Any]:
    return {"a": nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    "metadata",
    [{"a": 2**63}, {"a": -(2**63) - 1}, {"a": "\x00"}, {"\x00": 1}, {"a": ["\ud800"]}, nested(8), nested(5000 // 10)],
)
def test_metadata_has_bounds(metadata: dict[str, Any]) -> None:
    with pytest.raises(InvalidFields):
        check_metadata(metadata)


@given(st.dictionaries(TEXT, VALUES, max_size=4))
def test_what_metadata_may_hold_can_be_encoded(metadata: dict[str, Any]) -> None:
    try:
        check_metadata(metadata)
    except InvalidFields:
        return
    assert decode(encode(replace(FILE, metadata=metadata))).metadata == metadata


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_json_cannot_say_is_refused_and_not_changed(value: float) -> None:
    with pytest.raises(InvalidFields):
        check_metadata({"a": value})


NEW = NewFile(
    filename="a", content_type="text/plain", owner="o", tags=[], metadata={}, retention="permanent", expires_at=None
)


@pytest.mark.parametrize("content_type", ["text/plain", "text/plain; charset=utf-8", "application/vnd.a+b.c-d"])
def test_a_media_type_is_taken(content_type: str) -> None:
    check_new_file(replace(NEW, content_type=content_type))


@pytest.mark.parametrize(
    "content_type", ["", "text", "/", "text/", "text/plain\r\nX: 1", "text /plain", "a/" + "b" * 255]
)
def test_what_is_no_media_type_is_refused(content_type: str) -> None:
    with pytest.raises(InvalidFields):
        check_new_file(replace(NEW, content_type=content_type))


def test_an_expiry_goes_with_temporary_and_only_with_it() -> None:
    expiry = "2026-01-01T00:00:00.000000Z"
    check_new_file(replace(NEW, retention="temporary", expires_at=expiry))
    for wrong in (replace(NEW, expires_at=expiry), replace(NEW, retention="temporary")):
        with pytest.raises(InvalidFields):
            check_new_file(wrong)
