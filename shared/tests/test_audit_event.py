"""The signed bytes of an event are the same in each way of writing them."""

from __future__ import annotations

from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from artstore.audit.event import MAX_INTEGER, canonical

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ASCII = st.text(st.characters(max_codepoint=127), max_size=20)


def values(text: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    plain = st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | text
    return st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=10)


@given(st.dictionaries(ASCII, values(ASCII)) | st.dictionaries(TEXT, values(TEXT)))
def test_the_quick_way_makes_what_rfc_8785_says(body: dict[str, Any]) -> None:
    assert canonical(body) == rfc8785.dumps(body)


@pytest.mark.parametrize("wrong", [{"a": 2**70}, {"a": "\ud800"}, {"a": object()}, {"a": float("inf")}])
def test_values_that_cannot_have_been_signed_have_no_canonical_form(wrong: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        canonical(wrong)
