from __future__ import annotations

import base64
import hashlib

import pytest

from app.uploads.digests import DigestCheck
from artstore.errors import DigestMismatch, Malformed
from artstore.http.digests import Digest, digest_headers, digests_in

FILE, BODY = b"the file", b"--b\r\n\r\nthe file\r\n--b--"


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


SHA256, SHA512 = hashlib.sha256(FILE).digest(), hashlib.sha512(FILE).digest()
MD5 = hashlib.md5(FILE, usedforsecurity=False).digest()


def test_each_header_is_read() -> None:
    assert digests_in({"content-md5": b64(MD5)}) == (Digest("md5", MD5),)
    assert digests_in({"repr-digest": f"sha-256=:{b64(SHA256)}:"}) == (Digest("sha-256", SHA256),)
    both = f"sha-256=:{b64(SHA256)}:, sha-512=:{b64(SHA512)}:;q=1"
    assert digests_in({"content-digest": both, "repr-digest": both}) == (
        Digest("sha-256", SHA256),
        Digest("sha-512", SHA512),
    )
    assert digests_in({"content-digest": f"crc32c=:AAAAAA==:,sha-256=:{b64(SHA256)}:"}) == (Digest("sha-256", SHA256),)
    assert digests_in({}) == ()


@pytest.mark.parametrize(
    "headers",
    [
        {"content-digest": "sha-256=abc"},
        {"content-digest": ""},
        {"content-digest": f"sha-256=:{b64(b'short')}:"},
        {"content-digest": "sha-256=:a:"},
        {"content-digest": "crc32c=:AAAAAA==:"},
        {"content-digest": "sha-256=:" + "A" * 5000 + ":"},
        {"content-md5": "zz"},
        {"content-md5": b64(SHA256)},
    ],
)
def test_a_digest_that_cannot_be_checked_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(Malformed):
        digests_in(headers)


def test_the_element_is_asked_to_check_what_it_can() -> None:
    given = (Digest("sha-256", SHA256), Digest("sha-512", SHA512), Digest("md5", MD5))
    assert digest_headers(given) == {"repr-digest": f"sha-256=:{b64(SHA256)}:", "content-md5": b64(MD5)}


def run(check: DigestCheck, file: bytes = FILE) -> None:
    for at in range(len(BODY)):
        check.add_body(BODY[at : at + 1])
    for at in range(len(file)):
        check.add_file(file[at : at + 1])
    check.finish()


def test_a_forms_digest_may_match_the_file_or_the_whole_body() -> None:
    run(DigestCheck((Digest("sha-256", SHA256),)))
    run(DigestCheck((Digest("sha-256", hashlib.sha256(BODY).digest()),)))
    run(DigestCheck((Digest("sha-256", hashlib.sha256(BODY).digest()), Digest("md5", MD5))))
    with pytest.raises(DigestMismatch):
        run(DigestCheck((Digest("sha-256", bytes(32)),)))


def test_digests_that_the_element_cannot_check_are_checked_here() -> None:
    check = DigestCheck()
    check.expect((Digest("sha-512", SHA512),))
    run(check)
    check = DigestCheck()
    check.expect((Digest("sha-512", SHA512),))
    with pytest.raises(DigestMismatch):
        run(check, b"another")
