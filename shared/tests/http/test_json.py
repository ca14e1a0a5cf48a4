from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artstore.errors import Malformed
from artstore.http.json import MAX_DEPTH, check_depth, check_keys

plain = st.recursive(
    st.none() | st.text() | st.integers(0, 9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=60,
)


def depth_of(value: object) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inside is None else 1 + max(map(depth_of, inside), default=0)


@given(plain, st.integers(0, 40))
def test_depth_is_what_a_parser_would_find(value: object, more: int) -> None:
    for _ in range(more):
        value = [value, ']}\\"']
    body = orjson.dumps(value)
    if depth_of(value) <= MAX_DEPTH:
        check_depth(body)
    else:
        with pytest.raises(Malformed):
            check_depth(body)


@pytest.mark.parametrize("body", [b"", b"]" * 100, b'"' + b"[" * 100 + b'"', b'"\\"' + b"{" * 100 + b'"', b"[]" * 5000])
def test_what_only_looks_deep_is_left_to_the_parser(body: bytes) -> None:
    check_depth(body)


@pytest.mark.parametrize("body", [b"[" * 33, b'{"a":' * 33, b'"\\\\"' + b"[" * 33, b'["\\n"' + b",[" * 33])
def test_what_is_deep_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        check_depth(body)


@pytest.mark.parametrize(
    "body",
    [b'{"role":"READONLY","role":"ADMIN"}', b'[{"a":{"b":1,"c":2,"b":1}}]', b'{"a":1,"\\u0061":2}', b'{"":1,"":2}'],
)
def test_an_object_with_a_key_twice_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed, match="twice"):
        check_keys(body)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"grant_type=x", b'[{"a":1},{"a":1}]', b'{"a":{"a":1}}', b"9" * 5000, b"\xff", b"[" * 100_000]
)
def test_only_keys_of_one_object_are_compared(body: bytes) -> None:
    check_keys(body)
