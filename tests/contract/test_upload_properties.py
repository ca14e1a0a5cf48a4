"""Whatever a client sends as a name, a header or a form: it is stored as sent, or refused with 4xx and nothing is stored."""

from __future__ import annotations

import secrets
import unicodedata
from urllib.parse import quote, unquote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.sockets import exchange, request
from support.system import System

from artstore.clock import uuid7

FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NAME = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="/\\"), min_size=1).filter(
    lambda name: len(name.encode()) <= 255 and any(unicodedata.category(one)[0] in "LN" for one in name)
)
BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
VALID_NAME = NAME.filter(lambda name: BIDI.isdisjoint(name) and name.strip(". ") != "")
ANY_TEXT = st.text(max_size=300)
FIELD_NAMES = [
    "content-type", "content-disposition", "content-digest", "repr-digest", "content-md5", "idempotency-key", "if-match",
    "if-none-match", "if-modified-since", "range", "content-range", "content-encoding", "content-transfer-encoding",
    "content-language", "accept", "te", "x-request-id", "traceparent", "tracestate", "cookie", "forwarded", "prefer",
]  # fmt: skip
FIELD_VALUE = st.binary(max_size=60).map(
    lambda raw: bytes(one for one in raw if one not in b"\r\n\0")
) | st.sampled_from(
    [
        b"",
        b"*",
        b'"1"',
        b"a/b; c",
        b"sha-256=:AAAA:",
        b"attachment; filename*=x'y",
        b"bytes=0-0",
        b"text/html; charset=\xff",
    ]
)
PIECES = [
    b"--b\r\n", b"\r\n--b\r\n", b"\r\n--b--\r\n", b"--b--", b"\r\n\r\n", b"\r\n", b"--", b"x", b"\0", b"\xff",
    b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n',
    b'Content-Disposition: form-data; name="tags"\r\n\r\n["a"]', b'Content-Disposition: form-data; name="retention"\r\n\r\n',
    b"temporary", b'Content-Disposition: form-data; name="ttl_days"\r\n\r\n9', b"Content-Type: text/plain\r\n",
]  # fmt: skip


@pytest.fixture(scope="module")
def client(system: System) -> httpx.Client:
    with system.client() as client:
        wanted = {"role": "USER", "rate_per_minute": 600_000}
        made = client.post(f"{system.url('admin')}/api/service-accounts", json=wanted).json()
    return system.client(system.token(made["client_id"], made["client_secret"]))


def assert_read_as(client: httpx.Client, system: System, record: dict[str, object], name: str) -> None:
    path = f"{system.url('query')}/api/files/{record['file_id']}"
    assert record["filename"] == client.get(path).json()["filename"] == name
    disposition = client.get(f"{path}/content?disposition=attachment").headers["content-disposition"]
    assert unquote(disposition.partition("filename*=UTF-8''")[2], errors="strict") == name


@FEW
@given(name=VALID_NAME, how=st.sampled_from(["query", "field", "part", "part*", "header", "put"]))
def test_every_valid_name_comes_back_however_it_is_sent(
    client: httpx.Client, system: System, name: str, how: str
) -> None:
    url, percent = f"{system.url('ingester')}/api/files", quote(name, safe="")
    plain = name.replace("%", "%25").replace('"', "%22") if how == "part" else ""
    if how == "query":
        answer = client.post(f"{url}/upload?filename={percent}", content=b"x")
    elif how == "put":
        answer = client.put(f"{url}/{uuid7()}?filename={percent}", content=b"x", headers={"if-none-match": "*"})
    elif how == "header":
        headers = {"content-disposition": f"attachment; filename*=UTF-8''{percent}"}
        answer = client.post(f"{url}/upload", content=b"x", headers=headers)
    else:
        head = {"part": f'; filename="{plain}"', "part*": f"; filename*=UTF-8''{percent}", "field": ""}[how]
        if how == "part" and (name.isascii() or "%" in name or "\\" in name or '"' in name or "=?" in name):
            return  # several readings of these are in use: docs/api.md has the table
        body = f'--b\r\nContent-Disposition: form-data; name="file"{head}\r\n\r\nx\r\n--b'.encode()
        if how == "field":
            body += f'\r\nContent-Disposition: form-data; name="filename"\r\n\r\n{name}\r\n--b'.encode()
        headers = {"content-type": "multipart/form-data; boundary=b"}
        answer = client.post(f"{url}/upload", content=body + b"--\r\n", headers=headers)
    assert answer.status_code == 201, answer.text
    assert_read_as(client, system, answer.json(), name)


@FEW
@given(name=ANY_TEXT, tags=ANY_TEXT, metadata=ANY_TEXT, ttl=st.sampled_from(["", "1", "366", "-1", "x"]))
def test_any_text_in_a_field_is_stored_as_sent_or_refused(
    client: httpx.Client, system: System, name: str, tags: str, metadata: str, ttl: str
) -> None:
    file_id = str(uuid7())
    given_ = {"filename": name, "tags": tags, "metadata": metadata, "retention": "temporary", "ttl_days": ttl}
    query = "&".join(f"{key}={quote(value.encode(errors='surrogatepass'), safe='')}" for key, value in given_.items())
    answer = client.put(
        f"{system.url('ingester')}/api/files/{file_id}?{query}", content=b"x", headers={"if-none-match": "*"}
    )
    found = client.get(f"{system.url('query')}/api/files/{file_id}")
    if answer.status_code == 201:
        assert (found.status_code, found.json()["filename"], found.json()["tags"]) == (200, name, answer.json()["tags"])
    else:
        assert (answer.status_code in (400, 422), found.status_code) == (True, 404), answer.text


@FEW
@given(fields=st.lists(st.tuples(st.sampled_from(FIELD_NAMES), FIELD_VALUE), max_size=4), content=st.binary(max_size=9))
def test_any_header_is_honoured_or_refused(
    client: httpx.Client, system: System, fields: list[tuple[str, bytes]], content: bytes
) -> None:
    file_id = str(uuid7())
    token = client.headers["authorization"].removeprefix("Bearer ")
    head, body = request("PUT", f"/api/files/{file_id}", token, [f"content-length: {len(content)}"], content, "1.1")
    lines = b"".join(name.encode() + b": " + value + b"\r\n" for name, value in [("if-none-match", b"*"), *fields])
    head = head.removesuffix(b"\r\n") + lines + b"\r\n"
    [answer] = exchange(system, "ingester", head + body)
    found = client.get(f"{system.url('query')}/api/files/{file_id}/content")
    if answer.status == 201:
        assert (found.status_code, found.content) == (200, content)
    else:
        assert (400 <= answer.status < 500, found.status_code) == (True, 404), answer


@FEW
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=12))
def test_any_form_is_stored_whole_or_refused(client: httpx.Client, system: System, pieces: list[bytes]) -> None:
    tag = secrets.token_hex(8)
    answer = client.post(
        f"{system.url('ingester')}/api/files/upload?tags={tag}",
        content=b"".join(pieces),
        headers={"content-type": "multipart/form-data; boundary=b"},
    )
    found = client.get(f"{system.url('query')}/api/files?tag={tag}").json()["items"]
    if answer.status_code == 201:
        assert found == [answer.json()]
    else:
        assert (answer.status_code in (400, 413, 415, 422, 431), found) == (True, []), answer.text


def test_a_client_that_waits_for_100_learns_that_the_file_exists(client: httpx.Client, system: System) -> None:
    path, token = f"/api/files/{uuid7()}", client.headers["authorization"].removeprefix("Bearer ")
    fields = ["if-none-match: *", "expect: 100-continue", "content-length: 1000000"]
    created = client.put(f"{system.url('ingester')}{path}", content=b"x", headers={"if-none-match": "*"})
    assert (created.status_code, created.headers["location"]) == (201, path)
    [answer] = exchange(system, "ingester", request("PUT", path, token, fields)[0])
    assert (answer.status, answer.interim) == (412, 0)


def test_new_content_keeps_the_type_that_was_guessed_from_the_name(client: httpx.Client, system: System) -> None:
    url = f"{system.url('ingester')}/api/files"
    asked = {"filename": "a.odt", "retention": "temporary"}
    record = client.post(f"{url}/upload", params=asked, content=b"x").json()
    assert record["content_type"] == "application/vnd.oasis.opendocument.text"
    for headers in ({}, {"content-type": "text/plain"}, {"content-type": "application/octet-stream"}):
        changed = client.put(f"{url}/{record['file_id']}/content", content=b"y", headers=headers)
        assert (changed.status_code, changed.json()["content_type"]) == (200, record["content_type"])
    changed = client.put(f"{url}/{record['file_id']}/content", params={"content_type": "a/b"}, content=b"z")
    assert (changed.json()["content_type"], changed.json()["revision"]) == ("a/b", 5)
