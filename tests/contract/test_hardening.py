"""Heads, bodies and addresses that are too much or not what they seem; what answers carry, and what they never tell."""

from __future__ import annotations

import json
import re
import socket
import time

import httpx
import pytest
from support.system import OFFSETS, System

from .conftest import ORIGIN

SERVICES = ("admin", "se-01", "ingester", "query")
SAFE_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
}
INSIDE = re.compile(r"Traceback|site-packages|\.py\b|sqlalchemy|asyncpg|SELECT |127\.0\.0\.1:\d+|/app/|0x[0-9a-f]{6}")


def assert_problem(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == code


def raw(system: System, service: str, *pieces: bytes) -> bytes:
    """The answer on a connection that sends these pieces and then waits."""
    with socket.create_connection(("127.0.0.1", system.base + OFFSETS[service]), timeout=20) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(0.01)
        except OSError:
            pass  # closed in our face, which is an answer too
        came = b""
        try:
            while piece := connection.recv(65536):
                came += piece
        except ConnectionResetError:
            pass
        return came


@pytest.mark.parametrize("service", SERVICES)
def test_a_head_too_large_is_refused(system: System, service: str) -> None:
    url = system.url(service) + "/health/live"
    many = {f"x-many-{number}": "1" for number in range(80)}
    assert_problem(httpx.get(url, headers=many), 431, "too_many_headers")
    assert_problem(httpx.get(url, headers={"x-large": "a" * 40_000}), 431, "too_many_headers")
    assert_problem(httpx.get(url + "?" + "a" * 9000), 414, "uri_too_long")
    assert_problem(httpx.get(url + "/a" * 5000), 414, "uri_too_long")
    for query in ("a=%FF", "a=%ed%a0%80", "%C3=a", "a=%D0&b=%B9"):
        assert_problem(httpx.get(f"{url}?{query}"), 400, "malformed")
    assert httpx.get(f"{url}?a=%D0%B9&b=%&c=%zz").status_code == 200


@pytest.mark.parametrize("service", SERVICES)
def test_a_head_without_end_is_cut_off(system: System, service: str) -> None:
    fields = (
        b"".join(b"x-%d: %s\r\n" % (number, b"a" * 1000) for number in range(at, at + 50)) for at in range(0, 3000, 50)
    )
    answer = raw(system, service, b"GET /health/live HTTP/1.1\r\nhost: a\r\n", *fields)
    assert answer.startswith(b"HTTP/1.1 431 ") or answer == b""


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_no_http_is_answered_in_our_shape(system: System, service: str) -> None:
    head, _, body = raw(system, service, b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["code"] == "malformed"


def test_bodies_nested_deep_are_refused(system: System, client: httpx.Client) -> None:
    admin = system.url("admin")
    deep = b'{"client_id": "a", "client_secret": "b", "more": ' + b"[" * 3000 + b"]" * 3000 + b"}"
    kind = {"content-type": "application/json"}
    assert_problem(client.post(f"{admin}/api/auth/token", content=deep, headers=kind), 400, "malformed")
    deeper = b'{"description": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}"
    assert_problem(client.post(f"{admin}/api/service-accounts", content=deeper, headers=kind), 400, "malformed")
    deepest = b'{"metadata": {"a": ' + b"[" * 3000 + b"]" * 3000 + b"}}"
    file_id = "00000000-0000-7000-8000-000000000000"
    patch = client.patch(f"{system.url('ingester')}/api/files/{file_id}", content=deepest, headers=kind)
    assert_problem(patch, 400, "malformed")


def test_brackets_in_text_are_no_depth(system: System, client: httpx.Client) -> None:
    wanted = {"role": "USER", "description": '[[{{"\\' * 60}
    assert client.post(f"{system.url('admin')}/api/service-accounts", json=wanted).status_code == 201


def test_a_body_too_large_is_refused(system: System, client: httpx.Client) -> None:
    url = f"{system.url('admin')}/api/service-accounts"
    assert_problem(client.post(url, content=b" " * (2 << 20)), 413, "too_large")


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("path", ["/health/live", "/openapi.json", "/api/files/none", "/no/such/thing"])
def test_every_answer_carries_the_safety_headers(system: System, service: str, path: str) -> None:
    answer = httpx.get(system.url(service) + path)
    assert {name: answer.headers.get(name) for name in SAFE_HEADERS} == SAFE_HEADERS
    assert "server" not in answer.headers


@pytest.mark.parametrize("service", SERVICES)
def test_scripts_of_an_allowed_origin_may_call_and_others_not(system: System, service: str) -> None:
    asked = {"access-control-request-method": "GET", "access-control-request-headers": "authorization"}
    url = system.url(service) + "/api/files"
    allowed = httpx.options(url, headers={"origin": ORIGIN, **asked})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    assert "access-control-allow-credentials" not in allowed.headers
    refused = httpx.options(url, headers={"origin": "https://evil.example", **asked})
    assert "access-control-allow-origin" not in refused.headers
    answer = httpx.get(url, headers={"origin": ORIGIN})
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "Retry-After" in answer.headers["access-control-expose-headers"]
    assert "access-control-allow-origin" not in httpx.get(url, headers={"origin": "https://evil.example"}).headers


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254", "http://[fe80::1]", "http://0.0.0.0:8010", "http://[::]", "http://224.0.0.1",
        "http://255.255.255.255", "http://100.100.100.200", "http://[fd00:ec2::254]", "http://metadata.google.internal",
        "http://[::ffff:169.254.169.254]", "http://2852039166", "http://0xa9fea9fe", "http://0251.0376.0251.0376",
        "http://169.254.43518", "file:///etc/passwd", "gopher://127.0.0.1:6379", "ftp://host", "http://user:pass@host",
        "http://@host", "http://host/path", "http://host?query", "http://host#fragment", "http://host:0", "http://host:99999",
        "http://", "//host", "http://ho st", "http://host\\@evil", "http://-host", "http://host..b", "javascript:alert(1)",
        "http://хост", "",
    ],
)  # fmt: skip
def test_an_element_cannot_live_where_none_can(system: System, client: httpx.Client, url: str) -> None:
    wanted = {"id": "se-77", "url": url}
    answer = client.post(f"{system.url('admin')}/api/storage-elements", json=wanted)
    assert_problem(answer, 422, "invalid_fields")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://[::1]:9", "http://10.1.2.3:8010", "https://se.example"])
def test_an_element_may_live_here_or_nearby(system: System, client: httpx.Client, url: str) -> None:
    elements = f"{system.url('admin')}/api/storage-elements"
    assert client.post(elements, json={"id": "se-78", "url": url}).status_code == 201
    assert client.delete(f"{elements}/se-78").status_code == 204


def test_no_refusal_reveals_internals(system: System, client: httpx.Client) -> None:
    asked = [
        ("GET", "/api/service-accounts/none", None), ("GET", "/api/service-accounts?cursor=%00", None),
        ("POST", "/api/service-accounts", b"{"), ("POST", "/api/service-accounts", b'{"role": 5, "x": 1}'),
        ("GET", "/api/audit?cursor=x&limit=x", None), ("GET", "/api/sagas?limit=0", None), ("TRACE", "/api/sagas", None),
        ("POST", "/api/storage-elements/se-01/mode", b'{"mode": "edit"}'), ("GET", "/api/../../etc/passwd", None),
    ]  # fmt: skip
    for method, path, content in asked:
        answer = client.request(method, system.url("admin") + path, content=content)
        assert 400 <= answer.status_code < 500, f"{method} {path}: {answer.status_code}"
        assert not INSIDE.search(answer.text), answer.text
