"""A refusal has the right status and code, and leaves nothing behind."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest
from support.system import OFFSETS, System

METRIC_NAMES = [
    "http_requests_total", "http_request_duration_seconds", "database_connections_active", "redis_operations_total",
    "file_operations_total", "storage_space_used_bytes",
]  # fmt: skip


@pytest.fixture
def nothing_is_stored(client: httpx.Client, system: System) -> Iterator[None]:
    """Every element holds the same files after the test as before it."""

    def held() -> dict[str, set[str]]:
        return {element: file_ids(client, system, element) for element in ("se-01", "se-02", "se-03")}

    before = held()
    yield
    assert held() == before


def file_ids(client: httpx.Client, system: System, element: str) -> set[str]:
    found: set[str] = set()
    cursor = None
    while True:
        params = {"limit": "1000"} | ({"cursor": cursor} if cursor else {})
        page = client.get(f"{system.url(element)}/api/files", params=params).json()
        found |= {item["file_id"] for item in page["items"]}
        cursor = page["next_cursor"]
        if cursor is None:
            return found


def assert_problem(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["request_id"] == answer.headers["x-request-id"]


def put_raw(client: httpx.Client, system: System, content: bytes = b"x", **headers: str) -> httpx.Response:
    return client.post(
        f"{system.url('ingester')}/api/files/upload?filename=x.bin",
        content=content,
        headers={"content-type": "application/octet-stream", **headers},
    )


@pytest.mark.usefixtures("nothing_is_stored")
def test_without_a_token_nothing_is_let_in(system: System) -> None:
    with httpx.Client() as nobody:
        assert_problem(put_raw(nobody, system), 401, "unauthenticated")
        assert_problem(nobody.get(f"{system.url('query')}/api/files"), 401, "unauthenticated")
        assert_problem(nobody.get(f"{system.url('admin')}/api/storage-elements"), 401, "unauthenticated")
        assert_problem(nobody.put(f"{system.url('se-01')}/api/files/{uuid4()}"), 401, "unauthenticated")


@pytest.mark.usefixtures("nothing_is_stored")
def test_a_role_may_do_what_it_may_and_no_more(system: System) -> None:
    reader = system.new_account("READONLY")
    with system.client(system.token(**reader)) as client:
        assert_problem(put_raw(client, system), 403, "forbidden")
        assert client.get(f"{system.url('query')}/api/files").status_code == 200
    user = system.new_account("USER")
    with system.client(system.token(**user)) as client:
        direct = client.put(f"{system.url('se-01')}/api/files/{uuid4()}", content=b"past the saga")
        assert_problem(direct, 403, "forbidden")
        # a USER has no business at admin, so admin is not in the audience of its token
        assert_problem(client.get(f"{system.url('admin')}/api/service-accounts"), 401, "unauthenticated")


def test_an_unknown_id_is_not_found(client: httpx.Client, system: System) -> None:
    for path in (f"/api/files/{uuid4()}", f"/api/files/{uuid4()}/content", "/api/files/no-id"):
        assert_problem(client.get(system.url("query") + path), 404, "not_found")
    assert_problem(client.delete(f"{system.url('ingester')}/api/files/{uuid4()}"), 404, "not_found")


@pytest.mark.usefixtures("nothing_is_stored")
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"no boundary was named"),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nno end"),
        ("multipart/form-data; boundary=b", b"not multipart at all"),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data; name=\"other\"\r\n\r\nx\r\n--b--\r\n"),
    ],
)  # fmt: skip
def test_malformed_multipart_is_refused(client: httpx.Client, system: System, content_type: str, body: bytes) -> None:
    answer = client.post(
        f"{system.url('ingester')}/api/files/upload", content=body, headers={"content-type": content_type}
    )
    assert answer.status_code in (400, 422), answer.text
    assert_problem(answer, answer.status_code, "malformed" if answer.status_code == 400 else "invalid_fields")


@pytest.mark.usefixtures("nothing_is_stored")
@pytest.mark.parametrize("sent", [10, 300_000])
def test_a_body_cut_off_in_the_middle_leaves_nothing(client: httpx.Client, system: System, sent: int) -> None:
    token = client.headers["authorization"]
    with socket.create_connection(("127.0.0.1", system.base + OFFSETS["ingester"])) as connection:
        connection.sendall(
            b"POST /api/files/upload?filename=cut.bin HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
            b"Content-Length: 1000000\r\nAuthorization: " + token.encode() + b"\r\n\r\n" + os.urandom(sent)
        )
    # the next request is answered after the broken one was: the ingester is one loop


@pytest.mark.usefixtures("nothing_is_stored")
@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a/b", "..", "a\\b", "a" * 256, "ы" * 128, "line\nbreak", "nul\x00"]
)
def test_a_name_that_is_no_name_is_refused(client: httpx.Client, system: System, name: str) -> None:
    answer = client.post(
        f"{system.url('ingester')}/api/files/upload", params={"filename": name}, content=b"x",
        headers={"content-type": "application/octet-stream"},
    )  # fmt: skip
    assert_problem(answer, 422, "invalid_fields")


@pytest.mark.usefixtures("nothing_is_stored")
def test_a_name_of_five_megabytes_is_refused(client: httpx.Client, system: System) -> None:
    answer = client.post(
        f"{system.url('ingester')}/api/files/upload", files={"file": ("n" * 5_000_000, b"x", "text/plain")}
    )
    assert answer.status_code in (413, 422, 431), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.usefixtures("nothing_is_stored")
def test_a_body_over_the_limit_is_refused_before_it_is_sent(client: httpx.Client, system: System) -> None:
    with socket.create_connection(("127.0.0.1", system.base + OFFSETS["ingester"]), timeout=30) as connection:
        connection.sendall(
            b"POST /api/files/upload?filename=big HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
            b"Content-Length: 999999999999999\r\nAuthorization: "
            + client.headers["authorization"].encode()
            + b"\r\n\r\n"
        )
        answer = b""
        while b"}" not in answer and (piece := connection.recv(65536)):
            answer += piece
    assert b" 413 " in answer.split(b"\r\n")[0]
    assert b'"code":"too_large"' in answer


@pytest.mark.usefixtures("nothing_is_stored")
def test_a_wrong_digest_is_refused(client: httpx.Client, system: System) -> None:
    wrong = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    for size in (5, 300_000):
        for header in ("content-digest", "repr-digest"):
            answer = put_raw(client, system, os.urandom(size), **{header: f"sha-256=:{wrong}:"})
            assert_problem(answer, 400, "digest_mismatch")
        md5 = base64.b64encode(hashlib.md5(b"other", usedforsecurity=False).digest()).decode()
        assert_problem(put_raw(client, system, os.urandom(size), **{"content-md5": md5}), 400, "digest_mismatch")


def test_a_right_digest_is_accepted(client: httpx.Client, system: System) -> None:
    content = os.urandom(100_000)
    right = base64.b64encode(hashlib.sha256(content).digest()).decode()
    assert put_raw(client, system, content, **{"content-digest": f"sha-256=:{right}:"}).status_code == 201


@pytest.mark.parametrize("service", OFFSETS)
def test_every_service_reports_its_health_and_its_metrics(system: System, service: str) -> None:
    assert httpx.get(f"{system.url(service)}/health/live").status_code == 200
    ready = httpx.get(f"{system.url(service)}/health/ready")
    assert ready.status_code == 200, ready.text
    if service == "gateway":
        return  # it hides the services' metrics from outsiders, and has none
    metrics = httpx.get(f"{system.url(service)}/metrics").text
    for name in METRIC_NAMES:
        assert f"# HELP {name}" in metrics.replace("_created", ""), name
    assert "\nservice_ready 1.0\n" in metrics
    # A sum over all services counts each file once.
    assert ("\nstorage_space_used_bytes{" in metrics) is service.startswith("se-")


@pytest.mark.parametrize("service", OFFSETS)
def test_every_service_describes_itself(system: System, service: str) -> None:
    described = httpx.get(f"{system.url(service)}/openapi.json").json()
    assert described["paths"]
    assert httpx.get(f"{system.url(service)}/docs").status_code == 200


@pytest.mark.parametrize("service", OFFSETS)
def test_no_web_page_may_call_unless_its_origin_is_named(system: System, service: str) -> None:
    headers = {"origin": "https://desk.example", "access-control-request-method": "GET"}
    for method in ("OPTIONS", "GET"):
        answer = httpx.request(method, f"{system.url(service)}/api/files", headers=headers)
        assert "access-control-allow-origin" not in answer.headers
