from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import pytest

from artstore.contracts.files import Attributes
from artstore.http.content_head import content_disposition, head_of, repr_digest
from artstore.http.preconditions import Plan, validators_of
from artstore.http.ranges import ByteRange

EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def attributes(**changes: Any) -> Attributes:
    fields: dict[str, object] = {
        "file_id": "0197aaaa-0000-7000-8000-000000000001",
        "revision": 1,
        "filename": "Договор №5.pdf",
        "content_type": "application/pdf",
        "size_bytes": 10,
        "checksum": f"sha256:{EMPTY_SHA256}",
        "storage_element_id": "se-01",
        "created_at": "2026-01-01T12:00:00.000000Z",
        "updated_at": "2026-01-01T12:00:00.999999Z",
        "owner": "someone",
        "tags": [],
        "metadata": {},
        "retention": "permanent",
        "expires_at": None,
    }
    return Attributes(**{**fields, **changes})


def fields_of(file: Attributes, plan: Plan) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in head_of(file).fields(plan)}


@pytest.mark.parametrize(
    ("filename", "likeness"),
    [
        ("report.pdf", "report.pdf"),
        ("with space.txt", "with space.txt"),
        ("Договор №5.pdf", "_______ _5.pdf"),
        ("🗄️.bin", "__.bin"),
        ('a"b\\c%41.txt', "a_b_c_41.txt"),
        ("semi;colon=1,'.txt", "semi;colon=1,'.txt"),
        ("naïve.txt", "na_ve.txt"),
        ("a\r\nSet-Cookie: x=1", "a__Set-Cookie: x=1"),
    ],
)
def test_every_filename_survives_content_disposition(filename: str, likeness: str) -> None:
    field = content_disposition(filename)
    match = re.fullmatch(r"attachment; filename=\"([^\"\\]*)\"; filename\*=UTF-8''([A-Za-z0-9!#$&+.^_`|~%-]*)", field)
    assert match is not None
    assert match[1] == likeness
    assert unquote(match[2], errors="strict") == filename


def test_a_name_that_is_not_utf_8_still_gets_a_header() -> None:
    assert content_disposition("a\ud800b") == "attachment; filename=\"a_b\"; filename*=UTF-8''a%3Fb"


def test_the_digest_is_the_checksum_in_base64() -> None:
    assert repr_digest(f"sha256:{EMPTY_SHA256}") == "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"


@pytest.mark.parametrize("damaged", ["", "text/html\r\nX-Evil: 1", "text/\x00", "текст/html", " text/html"])
def test_an_unsafe_content_type_is_replaced(damaged: str) -> None:
    file = attributes(content_type=damaged)
    assert fields_of(file, Plan(200))["content-type"] == "application/octet-stream"


def test_the_headers_of_a_whole_file() -> None:
    file = attributes()
    assert fields_of(file, Plan(200)) == {
        "etag": f'"sha256:{EMPTY_SHA256}"',
        "last-modified": "Thu, 01 Jan 2026 12:00:00 GMT",
        "cache-control": "private, no-cache",
        "accept-ranges": "bytes",
        "content-disposition": content_disposition("Договор №5.pdf"),
        "content-type": "application/pdf",
        "content-length": "10",
        "repr-digest": repr_digest(file.checksum),
        "x-content-type-options": "nosniff",
    }


def test_a_part_carries_the_digest_of_the_whole() -> None:
    file = attributes()
    fields = fields_of(file, Plan(206, ByteRange(2, 5)))
    assert fields["content-range"] == "bytes 2-5/10"
    assert fields["content-length"] == "4"
    assert fields["repr-digest"] == repr_digest(file.checksum)


def test_a_304_has_no_headers_of_a_body() -> None:
    file = attributes()
    fields = fields_of(file, Plan(304))
    assert not fields.keys() & {"content-length", "content-range", "content-type"}
    assert fields["etag"] == f'"sha256:{EMPTY_SHA256}"'


@pytest.mark.parametrize(("revision", "strong"), [(1, True), (2, False)])
def test_only_the_first_revision_has_a_strong_date(revision: int, strong: bool) -> None:
    assert validators_of(attributes(revision=revision)).date_is_strong is strong
