"""docs/api-headers.md: every cell of the table, tried at real services."""

from __future__ import annotations

import base64
import re
import uuid
from dataclasses import dataclass, field

import pytest
from support.sockets import Answer, exchange, request
from support.system import ROOT, System

CONTENT = b"the content"
WRONG = base64.b64encode(bytes(32)).decode()
PAST, FUTURE = "Sat, 01 Jan 2000 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"
JSON = ["content-type: application/json"]


@dataclass(frozen=True)
class Door:
    """An endpoint and a request that it grants. `{file}` and `{account}` stand for ids made for this request alone."""

    service: str
    method: str
    path: str
    granted: int
    content: bytes | None = None
    fields: list[str] = field(default_factory=list)


READ = ["GET", "HEAD"]
DOORS: dict[str, list[Door]] = {
    "GET content": [Door("query", method, "/api/files/{file}/content", 200) for method in READ],
    "GET file": [Door("query", method, "/api/files/{file}", 200) for method in READ],
    "other GET": [
        Door(service, method, path, 200)
        for method in READ
        for service, path in [
            ("query", "/api/files"), ("query", "/health/live"), ("ingester", "/metrics"), ("admin", "/api/sagas"),
            ("admin", "/.well-known/jwks.json"), ("admin", "/api/service-accounts/{account}"), ("se-01", "/health/live"),
        ]
    ],
    "POST upload": [Door("ingester", "POST", "/api/files/upload?filename={file}", 201, CONTENT)],
    "PUT file": [Door("ingester", "PUT", "/api/files/{new}", 201, CONTENT, ["if-none-match: *"])],
    "PUT content": [Door("ingester", "PUT", "/api/files/{file}/content", 200, b"other content")],
    "PATCH file": [Door("ingester", "PATCH", "/api/files/{file}", 200, b'{"tags":["x"]}', JSON)],
    "DELETE file": [Door("ingester", "DELETE", "/api/files/{file}", 204)],
    "other change": [
        Door("admin", "POST", "/api/auth/token", 200, b"{login}", JSON),
        Door("admin", "POST", "/api/service-accounts/{account}/rotate-secret", 200, b'{"grace_s":0}', JSON),
        Door("admin", "POST", "/api/storage-elements/se-01/rebuild", 202, b"{}", JSON),
        Door("admin", "PATCH", "/api/service-accounts/{account}", 200, b'{"name":"x"}', JSON),
    ],
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """The header fields of a row, and the result of a request that honours them."""

    fields: list[str]
    honoured: dict[str, int] = field(default_factory=dict)
    chunked: bool = False
    length: bool = True
    version: str = "1.1"


OTHERS = "the others below"
"""TE, Trailer, Content-Location, Content-Language, Accept, Accept-Encoding, Max-Forwards."""
FAILS = {
    "GET content": 412,
    "GET file": 412,
    "PUT content": 412,
    "PATCH file": 412,
    "DELETE file": 412,
}
KNOWN = {"GET content": 304, "GET file": 304}
MISMATCH = {"POST upload": 400, "PUT file": 400, "PUT content": 400}
ROWS = {
    "If-Match": Row(['if-match: "999"'], FAILS),
    "If-None-Match": Row(["if-none-match: *"], KNOWN),
    "If-None-Match: a tag": Row(['if-none-match: "1", {etag}'], KNOWN),
    "If-Modified-Since": Row([f"if-modified-since: {FUTURE}"], KNOWN),
    "If-Unmodified-Since": Row([f"if-unmodified-since: {PAST}"], FAILS),
    "Range": Row(["range: bytes=0-0"], {"GET content": 206}),
    "If-Range": Row(['if-range: "x"'], {"GET content": 200}),
    "Content-Range": Row(["content-range: bytes 0-0/5"]),
    "Content-Encoding": Row(["content-encoding: gzip"]),
    "Transfer-Encoding: gzip, chunked": Row(["transfer-encoding: gzip, chunked"], chunked=True, length=False),
    "Content-Length together with Transfer-Encoding": Row(["transfer-encoding: chunked", "content-length: 3"], length=False),
    "no length, HTTP/1.1": Row([], length=False),
    "no length, HTTP/1.0": Row([], length=False, version="1.0"),
    "content": Row(["content-length: 2"], length=False),
    "Expect: 100-continue": Row(["expect: 100-continue"]),
    "Expect: other": Row(["expect: 200-ok"]),
    "Upgrade": Row(["connection: upgrade, close", "upgrade: h2c"]),
    "Content-Digest": Row([f"content-digest: sha-256=:{WRONG}:"], MISMATCH),
    "Repr-Digest": Row([f"repr-digest: sha-256=:{WRONG}:"], MISMATCH),
    "Content-MD5": Row([f"content-md5: {base64.b64encode(bytes(16)).decode()}"], MISMATCH),
    "Tus-Resumable": Row(["tus-resumable: 1.0.0", "upload-length: 100"]),
    "Upload-Concat": Row(["upload-concat: partial"]),
    "Upload-Complete: ?0": Row(["upload-complete: ?0"]),
    "two Host fields": Row(["host: b"]),
    "two Range, If-Range or date fields": Row(["range: bytes=0-0", "range: bytes=1-1"]),
    "Content-Transfer-Encoding": Row(["content-transfer-encoding: base64"]),
    OTHERS: Row(
        [
            "te: trailers", "trailer: x", "content-location: /x", "content-language: de", "accept: image/png",
            "accept-encoding: gzip", "max-forwards: 0",
        ]
    ),
}  # fmt: skip


def cells() -> list[tuple[str, str, str]]:
    """(row, column, cell) of the table in the document."""
    page = (ROOT / "docs" / "api-headers.md").read_text()
    lines = [line.strip("|").split("|") for line in re.findall(r"^\|.*\|$", page, re.MULTILINE)]
    head, _, *rows = [[cell.strip() for cell in line] for line in lines]
    return [(row[0], column, cell) for row in rows for column, cell in zip(head[1:], row[1:], strict=True)]


def test_the_document_has_every_header_and_every_endpoint() -> None:
    assert {row for row, _, _ in cells()} == ROWS.keys()
    assert {column for _, column, _ in cells()} == DOORS.keys()


@pytest.fixture(scope="session")
def token(system: System) -> str:
    with system.client() as client:
        wanted = {"role": "ADMIN", "rate_per_minute": 600_000}
        made = client.post(f"{system.url('admin')}/api/service-accounts", json=wanted).json()
    return system.token(made["client_id"], made["client_secret"])


@dataclass(frozen=True)
class Made:
    """A file for the requests, and its state before them."""

    file_id: str
    etag: str
    account: dict[str, str]


@pytest.fixture
def made(system: System, token: str) -> Made:
    with system.client(token) as client:
        asked = {"retention": "temporary", "ttl_days": "1", "filename": "before"}
        stored = client.post(f"{system.url('ingester')}/api/files/upload", params=asked, content=CONTENT).json()
        account = client.post(f"{system.url('admin')}/api/service-accounts", json={"role": "USER"}).json()
    return Made(stored["file_id"], f'"{stored["checksum"]}"', account)


@pytest.mark.parametrize(("row", "column", "cell"), cells())
def test_a_cell(system: System, token: str, made: Made, row: str, column: str, cell: str) -> None:
    for door in DOORS[column]:
        if cell == "honoured" and row == "Range" and door.method == "HEAD":
            continue  # Range has a meaning for GET only
        answer = send(system, token, made, door, ROWS[row])
        if cell == "ignored":
            assert answer.status == door.granted, answer
        elif cell == "honoured":
            assert answer.status == honoured_status(row, column, door), answer
        else:
            assert answer.status == int(cell), answer
        if answer.status >= 400:
            assert_nothing_happened(system, token, made)
        if answer.status >= 400 and door.method != "HEAD":
            assert answer.headers["content-type"] == "application/problem+json"
        if column in ("DELETE file", "PUT content", "PATCH file"):
            return


def honoured_status(row: str, column: str, door: Door) -> int:
    if row == "content" and door.content is None:
        return 400
    return 200 if row == "content" and column == "PATCH file" else ROWS[row].honoured.get(column, door.granted)


def send(system: System, token: str, made: Made, door: Door, row: Row) -> Answer:
    content = door.content or b""
    if content == b"{login}":
        content = (
            f'{{"client_id":"{made.account["client_id"]}","client_secret":"{made.account["client_secret"]}"}}'.encode()
        )
    fields = [*door.fields, *(one.replace("{etag}", made.etag) for one in row.fields)]
    if row is ROWS["If-Range"]:
        fields.append("range: bytes=0-0")
    if row is ROWS["content"]:
        fields, content = ([*door.fields], content) if door.content is not None else (fields, b"{}")
    if row.length or (row is ROWS["content"] and door.content is not None):
        fields += [f"content-length: {len(content)}"] if door.content is not None else []
    elif row.chunked:
        content = b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content) if content else b"0\r\n\r\n"
    elif row is not ROWS["content"]:
        content = b""
    path = door.path.replace("{file}", made.file_id).replace("{account}", made.account["id"])
    path = path.replace("{new}", str(uuid.uuid4()))
    shown = None if door.path == "/api/auth/token" else token
    head, content = request(door.method, path, shown, fields, content, row.version)
    answers = exchange(system, door.service, head + content)
    assert len(answers) == 1, answers
    return answers[0]


def assert_nothing_happened(system: System, token: str, made: Made) -> None:
    with system.client(token) as client:
        record = client.get(f"{system.url('query')}/api/files/{made.file_id}").json()
        assert (record["revision"], record["tags"]) == (1, [])
        assert client.get(f"{system.url('query')}/api/files/{made.file_id}/content").content == CONTENT
        account = client.get(f"{system.url('admin')}/api/service-accounts/{made.account['id']}").json()
        assert (account["name"], account["previous_secret_valid_until"]) == ("", None)
    login = {name: made.account[name] for name in ("client_id", "client_secret")}
    assert system.token(**login)
