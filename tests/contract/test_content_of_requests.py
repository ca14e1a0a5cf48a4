"""The content of a request at every door: whatever way it arrives, it is taken whole or refused, and never half."""

from __future__ import annotations

import gzip
import json
import re
import secrets
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.sockets import Answer, exchange, request
from support.system import ROOT, System

from artstore.clock import uuid7

CONTENT = b"first line\r\n\r\nGET /health/live HTTP/1.1\r\nhost: x\r\n\r\nlast line"
FORM = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n%s\r\n--b--\r\n' % CONTENT
JSON, OCTETS = "content-type: application/json", "content-type: application/octet-stream"
TUS, MULTIPART = "content-type: application/offset+octet-stream", "content-type: multipart/form-data; boundary=b"


@dataclass(frozen=True)
class Door:
    """`was_made` looks afterwards whether all of the content took effect, or none of it."""

    service: str
    method: str
    path: str
    content_type: str
    content: bytes
    was_made: Callable[[Site, Any], bool]
    status: int = 200


class Site:
    """The system with a file, an account and a name of this test alone."""

    def __init__(self, system: System, token: str) -> None:
        self.system, self.token = system, token
        self.name = f"n{secrets.token_hex(8)}"
        with system.client(token) as client:
            asked = {"retention": "temporary", "ttl_days": "1", "filename": "before"}
            stored = client.post(f"{system.url('ingester')}/api/files/upload", params=asked, content=b"before")
            account = client.post(f"{system.url('admin')}/api/service-accounts", json={"role": "USER"})
        self.file_id, self.account = stored.json()["file_id"], account.json()

    def get(self, service: str, path: str) -> Any:
        with self.system.client(self.token) as client:
            return client.get(self.system.url(service) + path).raise_for_status()

    def filled(self, text: bytes) -> bytes:
        for name, value in {
            b"{name}": self.name, b"{file}": self.file_id, b"{account}": self.account["id"],
            b"{id}": self.account["client_id"], b"{secret}": self.account["client_secret"],
        }.items():  # fmt: skip
            text = text.replace(name, value.encode())
        return text

    def stored(self) -> list[bytes]:
        """The contents of the files of this test's name."""
        items = self.get("query", f"/api/files?filename={self.name}").json()["items"]
        return [self.get("query", f"/api/files/{one['file_id']}/content").content for one in items]

    def logs_in(self) -> bool:
        login = {name: self.account[name] for name in ("client_id", "client_secret")}
        return httpx.post(f"{self.system.url('admin')}/api/auth/token", json=login).status_code == 200


def uploaded(site: Site, _answer: Any) -> bool:
    stored = site.stored()
    assert stored in ([], [CONTENT])
    return stored == [CONTENT]


def replaced(site: Site, _answer: Any) -> bool:
    now = site.get("query", f"/api/files/{site.file_id}/content").content
    assert now in (b"before", CONTENT)
    return bool(now == CONTENT)


def patched(site: Site, _answer: Any) -> bool:
    return bool(site.get("query", f"/api/files/{site.file_id}").json()["tags"] == [site.name])


def renamed(site: Site, _answer: Any) -> bool:
    return bool(site.get("admin", f"/api/service-accounts/{site.account['id']}").json()["name"] == site.name)


def created(site: Site, _answer: Any) -> bool:
    items = site.get("admin", "/api/service-accounts?limit=1000").json()["items"]
    return site.name in [one["client_id"] for one in items]


def rotated_at_once(site: Site, _answer: Any) -> bool:
    return not site.logs_in()


def let_in(_site: Site, answer: Any) -> bool:
    return bool(answer and "access_token" in answer)


ACCOUNT = "/api/service-accounts/{account}"
DOORS = {
    "raw upload": Door("ingester", "POST", "/api/files/upload?filename={name}", OCTETS, CONTENT, uploaded, 201),
    "form upload": Door(
        "ingester", "POST", "/api/files/upload?filename={name}", "content-type: multipart/form-data; boundary=b", FORM,
        uploaded, 201,
    ),
    "new content": Door("ingester", "PUT", "/api/files/{file}/content", OCTETS, CONTENT, replaced),
    "file patch": Door("ingester", "PATCH", "/api/files/{file}", JSON, b'{"tags":["{name}"]}', patched),
    "login": Door(
        "admin", "POST", "/api/auth/token", JSON, b'{"client_id":"{id}","client_secret":"{secret}"}', let_in
    ),
    "form login": Door(
        "admin", "POST", "/api/auth/token", "content-type: application/x-www-form-urlencoded",
        b"grant_type=client_credentials&client_id={id}&client_secret={secret}", let_in,
    ),
    "new account": Door(
        "admin", "POST", "/api/service-accounts", JSON, b'{"role":"USER","client_id":"{name}"}', created, 201
    ),
    "account patch": Door("admin", "PATCH", ACCOUNT, JSON, b'{"name":"{name}"}', renamed),
    "secret rotation": Door(
        "admin", "POST", ACCOUNT + "/rotate-secret", JSON, b'{"grace_s":0}', rotated_at_once
    ),
}  # fmt: skip
OFFER = ["connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABkAAQAoAAA"]
LAST = b"GET /health/live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"


@pytest.fixture(scope="session")
def token(system: System) -> str:
    with system.client() as client:
        wanted = {"role": "ADMIN", "rate_per_minute": 600_000}
        made = client.post(f"{system.url('admin')}/api/service-accounts", json=wanted).json()
    return system.token(made["client_id"], made["client_secret"])


@pytest.fixture
def site(system: System, token: str) -> Site:
    return Site(system, token)


def chunked(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)


def send(
    site: Site, door: Door, fields: list[str], content: bytes, *, version: str = "1.1", split: bool = False,
    half_close: bool = False, behind: bytes = b"",
) -> list[Answer]:  # fmt: skip
    path = site.filled(door.path.encode()).decode()
    token = None if "auth/token" in path else site.token
    head, content = request(door.method, path, token, [door.content_type, *fields], content, version)
    pieces = [head, content, behind] if split else [head + content + behind]
    return exchange(site.system, door.service, *pieces, half_close=half_close)


def said(answers: list[Answer]) -> Any:
    return json.loads(answers[0].body) if answers and answers[0].body else None


every_door = pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)


@every_door
@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("split", [False, True], ids=["one-write", "two-writes"])
def test_content_behind_an_upgrade_takes_effect(site: Site, door: Door, framing: str, split: bool) -> None:
    content = site.filled(door.content)
    stated = f"content-length: {len(content)}" if framing == "length" else "transfer-encoding: chunked"
    sent = content if framing == "length" else chunked(content)
    answers = send(site, door, [*OFFER, stated], sent, split=split, behind=LAST)
    assert [one.status for one in answers] == [door.status, 200], "the content is never a request"
    assert answers[1].json["status"] == "live"
    assert door.was_made(site, said(answers))


@every_door
@pytest.mark.parametrize("fields", [[], OFFER], ids=["plain", "upgrade"])
def test_a_half_closed_client_is_answered(site: Site, door: Door, fields: list[str]) -> None:
    content = site.filled(door.content)
    answers = send(site, door, [*fields, f"content-length: {len(content)}"], content, half_close=True)
    assert [one.status for one in answers] == [door.status]
    assert door.was_made(site, said(answers))


@every_door
@pytest.mark.parametrize("fields", [[], OFFER], ids=["plain", "upgrade"])
def test_content_that_is_cut_off_has_no_effect(site: Site, door: Door, fields: list[str]) -> None:
    content = site.filled(door.content)
    answers = send(site, door, [*fields, f"content-length: {len(content) + 1}"], content, half_close=True)
    assert [one.status for one in answers] == [400]
    assert not door.was_made(site, said(answers))


@every_door
@pytest.mark.parametrize(
    ("coding", "status"),
    [
        ("content-encoding: gzip", 415), ("content-encoding: deflate, identity", 415), ("content-encoding: br", 415),
        ("content-transfer-encoding: base64", 415), ("content-transfer-encoding: x-gzip", 415),
        ("transfer-encoding: gzip, chunked", 501), ("transfer-encoding: x, chunked", 501), ("transfer-encoding: gzip", 501),
    ],
)  # fmt: skip
def test_encoded_content_is_refused(site: Site, door: Door, coding: str, status: int) -> None:
    content = gzip.compress(site.filled(door.content), mtime=0)
    length = [f"content-length: {len(content)}"] if status == 415 else []
    answers = send(site, door, [coding, *length], content if length else chunked(content))
    assert [one.status for one in answers] == [status]
    assert not door.was_made(site, said(answers))


@every_door
@pytest.mark.parametrize("field", [OCTETS, JSON, "idempotency-key"])
def test_a_field_that_is_no_list_is_never_repeated(site: Site, door: Door, field: str) -> None:
    content = site.filled(door.content)
    twice = [field] if ":" in field else [f"{field}: a", f"{field}: b"]
    answers = send(site, door, [*twice, f"content-length: {len(content)}"], content)
    assert [one.status for one in answers] == [400], "a proxy may have looked at the other one"
    assert not door.was_made(site, said(answers))


every_json_door = pytest.mark.parametrize(
    "door",
    [one for one in DOORS.values() if one.content_type == JSON],
    ids=[n for n, d in DOORS.items() if d.content_type == JSON],
)


@every_json_door
def test_json_with_a_key_twice_has_no_effect(site: Site, door: Door) -> None:
    content = site.filled(door.content)
    first = content[1:].partition(b":")[0]
    twice = b"{" + first + b":1," + content[1:]
    answers = send(site, door, [f"content-length: {len(twice)}"], twice)
    assert [one.status for one in answers] == [400]
    assert "twice" in said(answers)["detail"]
    assert not door.was_made(site, None)


@every_json_door
def test_json_behind_a_byte_order_mark_takes_effect(site: Site, door: Door) -> None:
    content = b"\xef\xbb\xbf" + site.filled(door.content)
    answers = send(site, door, [f"content-length: {len(content)}"], content)
    assert [one.status for one in answers] == [door.status]
    assert door.was_made(site, said(answers))


@every_door
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("sent", ["nothing", "content", "content later"])
def test_content_without_a_length_has_no_effect(site: Site, door: Door, version: str, sent: str) -> None:
    content = site.filled(door.content) if sent != "nothing" and not door.content.startswith(b"grant") else b""
    answers = send(site, door, [], content, version=version, split=sent == "content later")
    if answers or sent != "content later":  # that may reset the connection before the answer is read
        assert [one.status for one in answers] == [411]
    assert not door.was_made(site, said(answers))


def _begun(site: Site) -> str:
    """The id of a resumable upload."""
    with site.system.client(site.token) as client:
        stated = {"tus-resumable": "1.0.0", "upload-length": "1"}
        begun = client.post(f"{site.system.url('ingester')}/api/uploads", headers=stated).raise_for_status()
    return begun.headers["location"].rpartition("/")[2]


def _required(operation: Any) -> list[str]:
    """The header fields without which a request is refused before its content is looked at."""
    wanted = [one for one in operation.get("parameters", []) if one["in"] == "header" and one.get("required")]
    return [f"{one['name'].lower()}: {one['schema'].get('enum', ['0'])[0]}" for one in wanted]


@pytest.mark.parametrize("service", ["admin", "se-01", "ingester", "query"])
def test_every_endpoint_that_takes_content_needs_a_length_and_no_other(site: Site, service: str) -> None:
    """Also where the content is optional: the lost body of a change must not become its default meaning."""
    document = httpx.get(f"{site.system.url(service)}/openapi.json").json()
    begun = _begun(site) if service == "ingester" else ""
    tried = 0
    for path, item in document["paths"].items():
        for method in sorted(item.keys() & {"post", "put", "patch"}):
            if path == "/api/auth/keys/rotate":
                continue  # carried out
            shown = path.replace("{upload_id}", begun or site.file_id)
            shown = re.sub(r"{element_id}", "nowhere", re.sub(r"{(file|account|saga)_id}", site.file_id, shown))
            content = item[method].get("requestBody", {}).get("content", {})
            fields = [one for one in (JSON, OCTETS, TUS, MULTIPART) if one[14:].partition(";")[0] in content][:1]
            fields += _required(item[method])
            if "if-none-match: *" in fields:  # an id that is taken is refused first
                shown = shown.replace(site.file_id, str(uuid7()))
            head, _ = request(method.upper(), shown.replace("{kid}", "nowhere"), site.token, fields)
            (answer,) = exchange(site.system, service, head)
            if answer.status == 403:
                continue  # for the modules' accounts only
            assert (answer.status == 411) == ("requestBody" in item[method]), (method, path, answer)
            tried += 1
    assert tried or service in ("se-01", "query")


@pytest.mark.parametrize("empty", [["content-length: 0"], ["transfer-encoding: chunked"]])
def test_a_client_that_states_no_content_takes_the_defaults(site: Site, empty: list[str]) -> None:
    content = b"" if empty == ["content-length: 0"] else b"0\r\n\r\n"
    answers = send(site, DOORS["secret rotation"], empty, content)
    assert [one.status for one in answers] == [200]
    assert said(answers)["previous_secret_valid_until"] is not None
    assert site.logs_in(), "with the secret before, by the default grace"


@every_door
def test_an_expectation_is_met_or_the_connection_ends(site: Site, door: Door) -> None:
    content = site.filled(door.content)
    fields = ["expect: 100-continue", f"content-length: {len(content)}", "connection: keep-alive"]
    good, unauthorised = send(site, door, fields, content, split=True, behind=LAST), Site.__new__(Site)
    assert [one.status for one in good] == [door.status, 200]
    assert good[0].interim == 1
    unauthorised.__dict__.update(site.__dict__, token="wrong")
    if "auth/token" in door.path:
        return
    refused = send(unauthorised, door, fields, b"", split=True, behind=LAST)
    assert [one.status for one in refused] == [401]
    assert (refused[0].headers["connection"], refused[0].interim) == ("close", 0)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/api/files/upload?retention=never", 422), ("POST", "/api/files/upload?tags=x,y", 422),
        ("POST", "/api/files/upload?filename=a%2Fb", 422), ("POST", "/api/files/upload?unknown=1", 422),
        ("PUT", "/api/files/00000000-0000-7000-8000-000000000000/content", 404), ("GET", "/api/files/upload", 405),
        ("PATCH", "/api/files/00000000-0000-7000-8000-000000000000?filename=x", 400), ("POST", "/nowhere", 404),
    ],
)  # fmt: skip
def test_what_the_head_shows_is_refused_before_100(site: Site, method: str, path: str, status: int) -> None:
    fields = ["expect: 100-continue", "content-length: 500", OCTETS]
    if method == "GET":
        fields[1] = "content-length: 0"
    if method == "PATCH":
        fields, status = ["expect: 100-continue", "content-length: 500", "content-encoding: gzip"], 415
    head, _ = request(method, path, site.token, fields)
    (answer,) = exchange(site.system, "ingester", head)
    assert (answer.status, answer.interim) == (status, 0)


@pytest.mark.parametrize("door", ["DELETE file", "GET list", "HEAD list", "POST verify", "POST rotate by query"])
def test_what_would_be_passed_over_is_refused(site: Site, door: str) -> None:
    rotate = f"/api/service-accounts/{site.account['id']}/rotate-secret"
    service, method, path, content, status = {
        "DELETE file": ("ingester", "DELETE", f"/api/files/{site.file_id}", b'{"if_revision":7}', 400),
        "GET list": ("query", "GET", "/api/files", b'{"filename":"x"}', 400),
        "HEAD list": ("query", "HEAD", "/api/files", b'{"filename":"x"}', 400),
        "POST verify": ("admin", "POST", "/api/storage-elements/se-01/verify", b'{"force":true}', 422),
        "POST rotate by query": ("admin", "POST", rotate + "?grace_s=0", b"", 422),
    }[door]
    head, content = request(method, path, site.token, [JSON, f"content-length: {len(content)}"], content)
    (answer,) = exchange(site.system, service, head + content)
    assert answer.status == status
    assert site.logs_in()
    assert site.get("query", f"/api/files/{site.file_id}").json()["revision"] == 1


@pytest.mark.parametrize("service", ["admin", "se-01", "ingester", "query"])
def test_head_is_answered_like_get(system: System, service: str) -> None:
    for path in ("/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs", "/nowhere"):
        get, head = httpx.get(system.url(service) + path), httpx.head(system.url(service) + path)
        assert (head.status_code, head.content) == (get.status_code, b""), path
    refused = httpx.head(f"{system.url('ingester')}/api/files/upload")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_that_offers_http2_stores_what_it_sends(site: Site, tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    sent.write_bytes(CONTENT * 20_000)
    url = f"{site.system.url('ingester')}/api/files/upload?filename={site.name}"
    bearer = f"authorization: Bearer {site.token}"
    for way in (["--data-binary", f"@{sent}"], ["-F", f"file=@{sent}"], ["-T", str(sent), "-X", "POST"]):
        command = ["curl", "-sS", "--fail", "--http2", "-H", bearer, "-H", OCTETS if way[0] != "-F" else "x-a: b"]
        subprocess.run([*command, *way, url], check=True, capture_output=True, timeout=60)
    assert site.stored() == [sent.read_bytes()] * 3


@pytest.mark.skipif(shutil.which("java") is None, reason="Java is not installed")
def test_javas_client_stores_what_it_sends(site: Site, tmp_path: Path) -> None:
    sent, program = tmp_path / "sent", ROOT / "tests" / "support" / "Upload.java"
    sent.write_bytes(CONTENT * 20_000)
    url = f"{site.system.url('ingester')}/api/files/upload?filename={site.name}"
    command = ["java", "-Xmx64m", str(program), url, site.token, str(sent)]
    done = subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert done.stdout.split() == [b"201"] * 3
    assert site.stored() == [sent.read_bytes()] * 3
