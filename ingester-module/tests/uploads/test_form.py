from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import urlencode

import pytest

from app.uploads.form import new_file, query_fields
from artstore.errors import ArtStoreError, InvalidFields, Malformed

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def described(**fields: str) -> object:
    return new_file(fields, filename="a.pdf", content_type="application/pdf", owner="me", now=NOW)


def test_a_file_without_fields_is_permanent() -> None:
    new = new_file({}, filename="a", content_type=None, owner="me", now=NOW)
    assert (new.filename, new.content_type, new.owner) == ("a", "application/octet-stream", "me")
    assert (new.tags, new.metadata, new.retention, new.expires_at) == ([], {}, "permanent", None)


def test_fields_describe_the_file() -> None:
    fields = {"tags": '["договор", "b"]', "metadata": '{"n": {"x": [1, null]}}', "filename": "Ж.pdf"}
    new = new_file(fields, filename="a.pdf", content_type="text/plain; charset=utf-8", owner="me", now=NOW)
    assert (new.filename, new.tags, new.metadata) == ("Ж.pdf", ["договор", "b"], {"n": {"x": [1, None]}})
    assert new.content_type == "text/plain; charset=utf-8"


@pytest.mark.parametrize(("ttl", "expires"), [(None, "2026-01-31"), ("1", "2026-01-02"), ("365", "2027-01-01")])
def test_a_temporary_file_expires_after_ttl_days(ttl: str | None, expires: str) -> None:
    fields = {"retention": "temporary"} | ({} if ttl is None else {"ttl_days": ttl})
    new = new_file(fields, filename="a", content_type=None, owner="me", now=NOW)
    assert new.expires_at == f"{expires}T00:00:00.000000Z"


@pytest.mark.parametrize(
    ("name", "stated", "kept"),
    [
        ("Договор.PDF", None, "application/pdf"),
        ("b.odt", "application/octet-stream", "application/vnd.oasis.opendocument.text"),
        ("b.tar.gz", "Application/Octet-Stream; x=1", "application/gzip"),
        ("a.txt", "text/html", "text/html"),
        ("a.unknown", None, "application/octet-stream"),
        ("pdf", None, "application/octet-stream"),
        (".pdf", None, "application/octet-stream"),
        ("a.pdf.", "application/octet-stream", "application/octet-stream"),
    ],
)
def test_a_type_that_says_nothing_is_guessed_from_the_name(name: str, stated: str | None, kept: str) -> None:
    assert new_file({"filename": name}, filename="a.png", content_type=stated, owner="", now=NOW).content_type == kept
    assert new_file({}, filename=name, content_type=stated, owner="", now=NOW).content_type == kept


WRONG = [
    ({"tags": "a,b"}, "tags"),
    ({"tags": '{"a": 1}'}, "tags"),
    ({"tags": "[1]"}, "tags"),
    ({"tags": '[""]'}, "tags"),
    ({"tags": "[" * 16_000}, "tags"),
    ({"tags": '["\ud800"]'}, "tags"),
    ({"metadata": "[]"}, "metadata"),
    ({"metadata": "{"}, "metadata"),
    ({"metadata": '{"a": "1", "a": "2"}'}, "metadata"),
    ({"metadata": '{"a": {"b": 1, "b": 1}}'}, "metadata"),
    ({"metadata": '{"a":' * 3000}, "metadata"),
    ({"metadata": '{"n": 123456789012345678901234567890}'}, "metadata"),
    ({"metadata": '{"n": "\\u0000"}'}, "metadata"),
    ({"retention": "forever"}, "retention"),
    ({"ttl_days": "5"}, "ttl_days"),
    ({"retention": "temporary", "ttl_days": "0"}, "ttl_days"),
    ({"retention": "temporary", "ttl_days": "366"}, "ttl_days"),
    ({"retention": "temporary", "ttl_days": "-1"}, "ttl_days"),
    ({"retention": "temporary", "ttl_days": "1.5"}, "ttl_days"),
    ({"retention": "temporary", "ttl_days": "１"}, "ttl_days"),
    ({"filename": ""}, "filename"),
    ({"filename": "../a"}, "filename"),
    ({"filename": "..\\a"}, "filename"),
    ({"filename": "a\x00b"}, "filename"),
    ({"filename": "я" * 128}, "filename"),
]


@pytest.mark.parametrize(("fields", "named"), WRONG)
def test_an_invalid_field_is_named(fields: dict[str, str], named: str) -> None:
    with pytest.raises(InvalidFields) as raised:
        described(**fields)
    assert raised.value.fields["fields"] == [named]


def test_a_name_of_exactly_255_bytes_is_accepted() -> None:
    described(filename="я" * 127 + "a")


def test_the_query_is_read_as_utf8() -> None:
    query = urlencode({"filename": "Договор №5.pdf", "tags": '["a&b=c"]'}).encode()
    assert query_fields(query) == {"filename": "Договор №5.pdf", "tags": '["a&b=c"]'}


@pytest.mark.parametrize(
    ("query", "error"),
    [
        (b"filename=%FF", Malformed),
        (b"filename=\xd0\x94", Malformed),
        (b"filename=a&filename=b", InvalidFields),
        (b"file_name=a", InvalidFields),
        (b"filename=" + b"x" * 5_000_000, InvalidFields),
        (b"&".join([b"tags=1"] * 1000), ArtStoreError),
    ],
)
def test_an_ambiguous_query_is_refused(query: bytes, error: type[ArtStoreError]) -> None:
    with pytest.raises(error):
        query_fields(query)
