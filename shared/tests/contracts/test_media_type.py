from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artstore.contracts.media_type import MAX_CONTENT_TYPE_BYTES, canonical_type
from artstore.errors import InvalidFields


@pytest.mark.parametrize(
    ("stated", "kept"),
    [
        ("text/plain", "text/plain"),
        ("Text/Plain;charset=UTF-8", "text/plain; charset=UTF-8"),
        (" text/plain ; Charset=utf-8 ; format=flowed", "text/plain; charset=utf-8; format=flowed"),
        ('application/pdf; name="a; b.pdf"', 'application/pdf; name="a; b.pdf"'),
        ('application/pdf; name="Договор.pdf"; q=1', "application/pdf; q=1"),
        ('text/plain; name="Ð\x94.txt"', "text/plain"),
        ("text/plain;", "text/plain"),
        ("text/plain; charset", "text/plain"),
        ('text/plain; name="half', "text/plain"),
        ("text/plain; a=b c", "text/plain"),
        ("text/plain; a=1; name=" + "x" * 300, "text/plain; a=1"),
    ],
)
def test_one_form_is_kept_and_unusable_parameters_are_dropped(stated: str, kept: str) -> None:
    assert canonical_type(stated) == kept


@pytest.mark.parametrize(
    "stated",
    [
        "",
        "image",
        "undefined",
        "*/*",
        "text/*",
        "text/",
        "/plain",
        "text/plain, text/html",
        "text /plain",
        "a/b/c",
        "é/x",
        "text/plain\r\nx: y",
        "x/" + "y" * 300,
    ],
)
def test_a_value_without_type_and_subtype_is_refused(stated: str) -> None:
    with pytest.raises(InvalidFields, match="content_type"):
        canonical_type(stated)


@given(st.text(max_size=300))
def test_any_value_is_refused_or_becomes_a_stable_ascii_header(stated: str) -> None:
    try:
        kept = canonical_type(stated)
    except InvalidFields:
        return
    assert kept.isascii()
    assert kept.isprintable() or "\t" in kept
    assert len(kept) <= MAX_CONTENT_TYPE_BYTES
    assert canonical_type(kept) == kept
