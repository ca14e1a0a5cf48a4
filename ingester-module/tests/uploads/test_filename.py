from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.uploads.filename import filename_of, header_text
from artstore.errors import Malformed, TooManyHeaders

NAMES = [
    ('form-data; name="file"; filename="a.pdf"', "a.pdf"),
    ('form-data; name="file"; filename="Договор №5.pdf"', "Договор №5.pdf"),
    ('form-data; name="file"; filename="🗂️.bin"', "🗂️.bin"),
    ("form-data; name=file; filename=plain.txt", "plain.txt"),
    ('form-data; name="file"', None),
    ('form-data; name="file"; filename=""', ""),
    ('attachment; filename="say %22hi%22.txt"', 'say "hi".txt'),
    ('attachment; filename="say \\"hi\\".txt"', 'say "hi".txt'),
    ('attachment; filename="semi;colon.txt"', "semi;colon.txt"),
    ("attachment; filename*=UTF-8''%D0%94%D0%BE%D0%B3%D0%BE%D0%B2%D0%BE%D1%80.pdf", "Договор.pdf"),
    ("attachment; filename=\"fallback.pdf\"; filename*=utf-8'ru'%D0%B0", "а"),
    ("attachment; filename*=UTF-8''%D0%B0; filename=\"fallback.pdf\"", "а"),
    ("attachment; filename*=iso-8859-1''caf%E9", "café"),
    ("attachment; filename=\"a; filename*=UTF-8''b\"", "a; filename*=UTF-8''b"),
    ('attachment; FileName="x"', "x"),
    ("attachment", None),
    ('form-data; name="file"; filename="%D0%94%20%D0%B0.pdf"', "Д а.pdf"),
    ('form-data; name="file"; filename="100%25 sure%20.pdf"', "100%25 sure%20.pdf"),
    ('form-data; name="file"; filename="%D0 half.pdf"', "%D0 half.pdf"),
    ('form-data; name="file"; filename="../../etc/passwd"', "../../etc/passwd"),
]


@pytest.mark.parametrize(("header", "expected"), NAMES)
def test_the_name_is_read_as_the_sender_wrote_it(header: str, expected: str | None) -> None:
    assert filename_of(header) == expected


@pytest.mark.parametrize("value", ["UTF-8''%FF", "UTF-8'no-second-quote", "koi8-r''%C4", "plain"])
def test_an_extended_name_that_cannot_be_read_is_refused(value: str) -> None:
    with pytest.raises(Malformed):
        filename_of(f"attachment; filename*={value}")


def test_a_name_of_megabytes_is_refused_by_its_length() -> None:
    with pytest.raises(TooManyHeaders):
        filename_of('attachment; filename="' + "x" * 5_000_000 + '"')


@given(st.text(min_size=1, max_size=80))
def test_any_name_survives_filename_star(name: str) -> None:
    assert filename_of(f"attachment; filename*=UTF-8''{quote(name, safe='')}") == name


@given(st.text(max_size=400))
def test_no_header_breaks_the_reader(header: str) -> None:
    try:
        filename_of(header)
    except Malformed:
        pass


def test_header_bytes_are_utf8_else_latin1() -> None:
    assert header_text("Договор".encode()) == "Договор"
    assert header_text(b"caf\xe9") == "café"
