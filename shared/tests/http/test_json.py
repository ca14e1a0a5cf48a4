from __future__ import annotations

import pytest

from artstore.errors import Malformed
from artstore.http.json import check_keys


@pytest.mark.parametrize(
    "body",
    [
        b'{"role":"READONLY","role":"ADMIN"}',
        b'[{"a":{"b":1,"c":2,"b":1}}]',
        b'{"a":1,"\\u0061":2}',
        b'{"":1,"":2}',
        b'{"a":1,"a":1}',
    ],
)
def test_an_object_with_a_key_twice_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed, match="twice"):
        check_keys(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"grant_type=x",
        b'[{"a":1},{"a":1}]',
        b'{"a":{"a":1}}',
        b'{"a":{"b":[1]},"c":"\xd1\x8f"}',
        b"9" * 5000,
        b"\xff",
    ],
)
def test_only_keys_of_one_object_are_compared(body: bytes) -> None:
    check_keys(body)


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 3000 + b"1" + b"}" * 3000])
def test_deep_nesting_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed, match="nested too deeply"):
        check_keys(body)
