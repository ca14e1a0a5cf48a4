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
    ('form-data; name="file"; filename="C:\\Users\\me\\a.pdf"', "C:\\Users\\me\\a.pdf"),
    # filename* that cannot be read, beside a name that can
    *(
        (f'form-data; name="file"; filename="scan.pdf"; filename*={value}', "scan.pdf")
        for value in ("UTF-8'bad%2", "UTF-8''%FF", "resume.pdf", '""', "utf-7''+-a", "utf-16''%D0%B0", "''", "UTF-8''")
    ),
    ('attachment; filename*=resume.pdf; filename="scan.pdf"', "scan.pdf"),
    # filename* in other charsets, and with quotes
    ("attachment; filename*=windows-1251''%F1%EA%E0%ED.pdf", "скан.pdf"),
    ("attachment; filename*=koi8-r''%C4", "д"),
    ("attachment; filename*=utf8''%D0%B0.pdf", "а.pdf"),
    ("attachment; filename*=utf-8''%22a%20b.png%22", "a b.png"),
    ("attachment; filename*=\"UTF-8''a%20b.png\"", "a b.png"),
    # RFC 2047 words
    ('attachment; filename="=?utf-8?B?0J/RgNC40LrQsNC3LnBkZg==?="', "Приказ.pdf"),
    ('attachment; filename="=?UTF-8?b?0JTQvtCz0L7QstC+0YAucGRm?="', "Договор.pdf"),
    ('attachment; filename="=?utf-8?Q?=D0=90=D0=BA=D1=82_1.pdf?="', "Акт 1.pdf"),
    ('attachment; filename="=?windows-1251?B?xO7j7uLu8C5wZGY=?="', "Договор.pdf"),
    ('attachment; filename="=?utf-8?B?0JTQvtCz?= =?utf-8?B?0L7QstC+0YAucGRm?="', "Договор.pdf"),
    ('attachment; filename="=?utf-8?B?0JTQvtA=?= =?utf-8?B?sy5wZGY=?="', "Дог.pdf"),
    ('attachment; filename="=?utf-8*ru?Q?=D0=B0?="', "а"),
    ('attachment; filename="=?x"', "=?x"),
    ('attachment; filename="=?utf-8?B?*?="', "=?utf-8?B?*?="),
    ('attachment; filename="=?utf-7?Q?+AC8-?="', "=?utf-7?Q?+AC8-?="),
    ('attachment; filename="a =?utf-8?Q?b?="', "a =?utf-8?Q?b?="),
    # as composed or decomposed as it came, and with a right-to-left mark
    ('attachment; filename="И\u0306од.pdf"', "И\u0306од.pdf"),
    ('attachment; filename="\u200fשלום.pdf"', "\u200fשלום.pdf"),
]


@pytest.mark.parametrize(("header", "expected"), NAMES)
def test_the_filename_is_read_as_sent(header: str, expected: str | None) -> None:
    assert filename_of(header) == expected


@pytest.mark.parametrize("value", ["UTF-8''%FF", "UTF-8'no-second-quote", "utf-7''a", "plain"])
def test_an_unreadable_extended_name_is_refused(value: str) -> None:
    with pytest.raises(Malformed):
        filename_of(f"attachment; filename*={value}")


@pytest.mark.parametrize(
    "parameters",
    [
        'filename="a"b.txt"',
        'filename=a"b',
        'filename="a.bin',
        'filename="a\\',
        'filename="a" b',
        'filename=a; x="',
        'x="" "',
    ],
)
def test_a_header_with_an_ambiguous_name_is_refused(parameters: str) -> None:
    with pytest.raises(Malformed, match="cannot be read"):
        filename_of(f"attachment; {parameters}")


@pytest.mark.parametrize(
    "twice", ['filename="a"; filename="b"', "filename*=UTF-8''a; FILENAME*=UTF-8''b", "name=file; name=x"]
)
def test_a_repeated_parameter_is_refused(twice: str) -> None:
    with pytest.raises(Malformed, match="twice"):
        filename_of(f"form-data; {twice}")


def test_a_name_in_continuations_is_refused_not_ignored() -> None:
    continued = "attachment; filename*0*=UTF-8''%D0%B0; filename*1=\"b.txt\""
    with pytest.raises(Malformed):
        filename_of(continued)
    with pytest.raises(Malformed):
        filename_of('attachment; filename*0="a"; filename*1="b.txt"')
    assert filename_of(f'{continued}; filename="ok.txt"') == "ok.txt"


def test_a_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(TooManyHeaders):
        filename_of('attachment; filename="' + "x" * 5_000_000 + '"')


@given(st.text(min_size=1, max_size=80))
def test_any_name_survives_filename_star(name: str) -> None:
    quoted = len(name) > 1 and name[0] == name[-1] == '"'
    expected = name[1:-1] if quoted else name
    if expected:
        assert filename_of(f"attachment; filename*=UTF-8''{quote(name, safe='')}") == expected


@given(st.text(max_size=400))
def test_no_header_breaks_the_reader(header: str) -> None:
    try:
        filename_of(header)
    except Malformed:
        pass


@pytest.mark.parametrize("name", ["Договор.pdf".encode("cp1251"), b"caf\xe9", b"\x81\x98", "я".encode()[:1]])
def test_a_name_in_a_code_page_is_refused_with_the_remedy(name: bytes) -> None:
    with pytest.raises(Malformed, match="filename is not UTF-8"):
        filename_of(header_text(b'attachment; filename="' + name + b'"'))


def test_an_extended_name_replaces_a_plain_one_in_a_code_page() -> None:
    header = b"attachment; filename=\"\xc4\"; filename*=UTF-8''%D0%94"
    assert filename_of(header_text(header)) == "Д"
