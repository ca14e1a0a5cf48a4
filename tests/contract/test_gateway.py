"""The gateway: every route leads to the service that DESIGN names, and what it answers itself has the form of the services'."""

from __future__ import annotations

import json
import re
import secrets

import httpx
import pytest
from support.sockets import exchange, request
from support.system import ROOT, System

from artstore_cli.openapi import service_of

ID = "0192d3a0-0000-7000-8000-000000000000"
ROUTES = [
    ("admin", "GET", "/.well-known/jwks.json"),
    ("admin", "GET", "/.well-known/oauth-authorization-server"),
    ("admin", "POST", "/api/auth/token"),
    ("admin", "GET", "/api/service-accounts"),
    ("admin", "DELETE", f"/api/service-accounts/{ID}"),
    ("admin", "GET", "/api/storage-elements/se-01"),
    ("admin", "POST", "/api/storage-elements/se-01/mode"),
    ("admin", "GET", "/api/sagas"),
    ("ingester", "GET", f"/api/sagas/{ID}"),
    ("admin", "GET", "/api/audit"),
    ("admin", "GET", "/api/audit/verify"),
    ("ingester", "POST", "/api/files/upload"),
    ("ingester", "POST", "/api/files/batch"),
    ("ingester", "PUT", f"/api/files/{ID}"),
    ("ingester", "PUT", f"/api/files/{ID}/content"),
    ("ingester", "PATCH", f"/api/files/{ID}"),
    ("ingester", "DELETE", f"/api/files/{ID}"),
    ("ingester", "POST", "/api/uploads"),
    ("ingester", "OPTIONS", "/api/uploads"),
    ("ingester", "GET", f"/api/uploads/{ID}"),
    ("ingester", "HEAD", f"/api/uploads/{ID}"),
    ("ingester", "PATCH", f"/api/uploads/{ID}"),
    ("ingester", "DELETE", f"/api/uploads/{ID}"),
    ("query", "GET", "/api/files?limit=1"),
    ("query", "GET", f"/api/files/{ID}"),
    ("query", "HEAD", f"/api/files/{ID}/content"),
    ("query", "POST", f"/api/files/{ID}/links"),
    ("query", "GET", "/api/links/unknown"),
    ("query", "HEAD", "/api/links/unknown"),
    ("query", "GET", "/api/changes?limit=1"),
]


def requests_of(system: System, service: str) -> float:
    """Those that the service itself has answered, at any route but health and metrics."""
    lines = httpx.get(f"{system.url(service)}/metrics").text.splitlines()
    counted = [line for line in lines if line.startswith("http_requests_total{")]
    return sum(float(line.split()[-1]) for line in counted if "/health/" not in line and "/metrics" not in line)


@pytest.mark.parametrize(("service", "method", "path"), ROUTES)
def test_a_route_leads_to_its_service(
    system: System, client: httpx.Client, service: str, method: str, path: str
) -> None:
    """The system is this test's own, so the answer of one service alone grows the count of one service."""
    asked = {"X-Request-ID": f"route-{service}"}
    direct = client.request(method, system.url(service) + path, headers=asked)
    answer = client.request(method, system.address + path, headers=asked)
    assert answer.status_code == direct.status_code != 405
    assert answer.headers["x-request-id"] == f"route-{service}"
    others = {"admin", "ingester", "query"} - {service}
    refused = [client.request(method, system.url(other) + path).status_code for other in others]
    assert set(refused) <= {404, 405, 307} or path.startswith("/api/sagas")


def test_the_documentation_of_each_service_works_below_its_prefix(system: System) -> None:
    with httpx.Client() as client:
        for service in ("admin", "ingester", "query"):
            page = client.get(f"{system.address}/{service}/docs")
            assert page.headers["content-type"] == "text/html; charset=utf-8"
            for name in ("swagger-ui.css", "swagger-ui-bundle.js", "start.js", "favicon-32x32.png"):
                assert f"docs/{name}" in page.text
                assert client.get(f"{system.address}/{service}/docs/{name}").status_code == 200
            described = client.get(f"{system.address}/{service}/docs/openapi.json").json()
            assert described["paths"] == client.get(f"{system.url(service)}/openapi.json").json()["paths"]


def test_one_document_describes_the_one_address(system: System) -> None:
    with httpx.Client(base_url=system.address) as client:
        described = client.get("/openapi.json")
        assert described.headers["content-type"] == "application/json"
        assert described.json() == json.loads((ROOT / "gateway" / "openapi.json").read_text())
        assert client.get("/docs/openapi.json").content == described.content
        assert client.post("/openapi.json").status_code == 404
        assert "docs/start.js" in client.get("/docs").text
        assert client.get("/docs/start.js").status_code == 200


@pytest.mark.parametrize(("service", "method", "path"), ROUTES)
def test_the_document_has_the_same_routes(service: str, method: str, path: str) -> None:
    assert service_of(method, path.partition("?")[0]) == f"{service}-module"


@pytest.mark.parametrize(
    "path", ["/", "/metrics", "/Caddyfile", "/docs/Caddyfile", "/api", "/api/element", "/admin/metrics", "/x"]
)
def test_what_is_not_public_is_answered_404_as_a_service_does(system: System, path: str) -> None:
    answer = httpx.get(system.address + path, headers={"X-Request-ID": "abc:1"})
    other = httpx.get(system.url("query") + "/unknown", headers={"X-Request-ID": "abc:1"})
    assert (answer.status_code, answer.json()) == (404, other.json())
    names = ("content-type", "x-request-id", "x-content-type-options", "content-security-policy", "x-frame-options")
    assert [answer.headers[name] for name in names] == [other.headers[name] for name in names]
    odd = httpx.get(system.address + path, headers={"X-Request-ID": 'a"b'})
    assert odd.json()["request_id"] == odd.headers["x-request-id"] != 'a"b'


def test_a_path_that_climbs_reaches_nothing_else(system: System) -> None:
    for path in ("/api/files/../../metrics", "/api/files/%2e%2e/%2e%2e/metrics", "/admin/docs/..%2f..%2fmetrics",
                 "/query/docs/../../metrics", "//metrics", "/api/links/..;/metrics"):  # fmt: skip
        connection = httpx.Client()
        request = connection.build_request("GET", system.address + "/")
        request.url = request.url.copy_with(raw_path=path.encode())
        answer = connection.send(request)
        assert answer.status_code in (401, 404), path
        assert b"http_requests_total" not in answer.content
        connection.close()


def test_the_gateway_is_ready_when_the_services_are(system: System) -> None:
    assert httpx.get(f"{system.address}/health/live").json() == {"status": "live"}
    ready = httpx.get(f"{system.address}/health/ready")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert json.loads(ready.text)["checks"] == {}


def upload_head(token: str, *fields: str) -> bytes:
    head, _ = request("POST", "/api/files/upload?filename=a", token, ["content-type: a/b", *fields])
    return head


def test_an_upload_that_is_cut_off_is_not_stored_and_does_no_harm_to_others(
    system: System, client: httpx.Client
) -> None:
    """Breaking off must not make an instance look ill."""
    token, name = client.headers["authorization"].removeprefix("Bearer "), f"cut-{secrets.token_hex(4)}"
    for fields, sent in (
        (["content-length: 10"], b"abc"),
        (["transfer-encoding: chunked"], b"3\r\nabc\r\n"),
        (["transfer-encoding: chunked"], b"zz\r\nabc\r\n"),
    ):
        head = upload_head(token, *fields).replace(b"filename=a", b"filename=" + name.encode())
        for _ in range(3):
            (answer,) = exchange(system, "gateway", head + sent, half_close=b"zz" not in sent)
            shown = (answer.status, answer.json["code"], answer.headers["connection"])
            seen_to_close_first = (502, "bad_gateway", "close")
            assert shown in ((400, "malformed", "close"), seen_to_close_first)
            stored = client.post(f"{system.address}/api/files/upload", params={"filename": "other"}, content=b"x")
            assert stored.status_code == 201
    assert client.get(f"{system.address}/api/files", params={"filename": name}).json()["items"] == []


def test_a_client_that_closes_its_side_before_the_answer_is_answered(system: System) -> None:
    head = upload_head(system.token(), "content-length: 3")
    (answer,) = exchange(system, "gateway", head + b"abc", half_close=True)
    assert (answer.status, answer.headers["connection"]) in ((201, "close"), (502, "close"))
    assert answer.json.get("code", "bad_gateway") == "bad_gateway"


@pytest.mark.parametrize("size_bytes", [1, 4095, 4096, 4097, 99_999, 100_000, 131_072, 1 << 20])
def test_content_arrives_whole_however_it_is_passed_on(system: System, client: httpx.Client, size_bytes: int) -> None:
    """Small content is read before it is sent on, larger content is streamed; each with a length and in chunks."""
    content = secrets.token_bytes(size_bytes)
    url = f"{system.address}/api/files/upload?filename=a.bin&retention=temporary"
    for body in (content, iter([content[:10], content[10:]])):
        stored = client.post(url, content=body, headers={"content-type": "a/b"}).json()
        assert client.get(f"{system.address}/api/files/{stored['file_id']}/content").content == content


def test_a_refusal_comes_before_the_body_is_sent(system: System, client: httpx.Client) -> None:
    head = upload_head("wrong", "content-length: 5000000000", "connection: keep-alive")
    (answer,) = exchange(system, "gateway", head + bytes(100_000))
    assert answer.status == 401
    expecting = upload_head("wrong", "content-length: 5", "expect: 100-continue")
    (answer,) = exchange(system, "gateway", expecting)
    assert (answer.status, answer.interim) == (401, 0)
    good = upload_head(
        client.headers["authorization"].removeprefix("Bearer "), "content-length: 5", "expect: 100-continue"
    )
    (answer,) = exchange(system, "gateway", good, b"12345")
    assert (answer.status, answer.interim) == (201, 1)
    large = client.post(
        f"{system.address}/api/files/upload", content=bytes(20 << 20), headers={"authorization": "Bearer x"}
    )
    assert large.status_code == 401


@pytest.mark.parametrize("service", ["admin", "ingester", "query"])
def test_content_without_a_length_is_refused_as_the_service_does(
    system: System, client: httpx.Client, service: str
) -> None:
    """Caddy would state a length of 0: an empty file would be stored, or a default would be taken."""
    token = client.headers["authorization"].removeprefix("Bearer ")
    for path, item in httpx.get(f"{system.address}/{service}/docs/openapi.json").json()["paths"].items():
        for method in sorted(item.keys() & {"post", "put", "patch"}):
            shown = re.sub(
                r"{(element_id|kid)}", "nowhere", re.sub(r"{\w+_id}", ID, path.replace("{element_id}", "nowhere"))
            )
            if service_of(method.upper(), shown) != f"{service}-module" or path == "/api/auth/keys/rotate":
                continue
            head, _ = request(method.upper(), shown, token, ["content-type: application/json"])
            (answer,) = exchange(system, "gateway", head)
            assert (answer.status == 411) == ("requestBody" in item[method]), (method, path, answer)
            assert answer.json["code"]


@pytest.mark.parametrize(
    ("fields", "sent", "status"),
    [
        (["content-length: 3", "content-length: 4"], b"abcd", 400),
        (["content-length: +3"], b"abc", 400),
        (["transfer-encoding: gzip, chunked"], b"0\r\n\r\n", 501),
        (["transfer-encoding: chunked", "transfer-encoding: chunked"], b"0\r\n\r\n", 501),
        (["transfer-encoding : chunked"], b"0\r\n\r\n", 400),
        (["content-length: 3", "transfer-encoding: chunked"], b"3\r\nabc\r\n0\r\n\r\n", 201),
        (["trailer: x-a", "transfer-encoding: chunked"], b"3\r\nabc\r\n0\r\nx-a: b\r\n\r\n", 201),
        (["connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABkAAQAoAAA",
          "content-length: 3"], b"abc", 201),
    ],
)  # fmt: skip
def test_framing_means_one_thing_or_is_refused(
    system: System, client: httpx.Client, fields: list[str], sent: bytes, status: int
) -> None:
    head = upload_head(client.headers["authorization"].removeprefix("Bearer "), *fields)
    behind = b"GET /health/live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    answers = exchange(system, "gateway", head.replace(b"connection: close\r\n", b"") + sent + behind)
    assert answers[0].status == status
    if status == 201:
        assert answers[0].json["size_bytes"] == 3
        assert [one.status for one in answers[1:]] in ([200], []), "what is behind the content is a request of its own"
    else:
        assert len(answers) == 1, "nothing behind it is taken as a request"


def test_downloads_have_ranges_and_conditions(system: System, client: httpx.Client) -> None:
    content = secrets.token_bytes(300_000)
    file_id = client.post(f"{system.address}/api/files/upload?filename=a.bin", content=content).json()["file_id"]
    url = f"{system.address}/api/files/{file_id}/content"
    whole = client.get(url, headers={"accept-encoding": "gzip"})
    assert (whole.status_code, whole.content) == (200, content)
    part = client.get(url, headers={"range": "bytes=100-299999"})
    assert (part.status_code, part.content) == (206, content[100:])
    assert client.get(url, headers={"if-none-match": whole.headers["etag"]}).status_code == 304
    assert client.get(url, headers={"range": "bytes=900000-"}).status_code == 416
    head = client.head(url)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "300000")
    link = client.post(f"{system.address}/api/files/{file_id}/links", json={}).json()["url"]
    assert link.startswith(system.address)
    assert httpx.get(link).content == content


def test_a_location_leads_on_at_the_gateway(system: System, client: httpx.Client) -> None:
    stored = client.post(f"{system.address}/api/files/upload?filename=a", content=b"abc")
    followed = client.get(str(stored.url.join(stored.headers["location"])))
    assert followed.json() == stored.json()
    begun = client.post(f"{system.address}/api/uploads", headers={"tus-resumable": "1.0.0", "upload-length": "3"})
    upload = begun.url.join(begun.headers["location"])
    stated = {"tus-resumable": "1.0.0", "upload-offset": "0", "content-type": "application/offset+octet-stream"}
    ended = client.patch(str(upload), headers=stated, content=b"abc")
    assert client.get(f"{system.address}/api/files/{ended.headers['x-artstore-file-id']}/content").content == b"abc"


def test_limits_count_the_client_of_the_gateway_and_not_what_it_claims(system: System) -> None:
    """Addresses of the loopback network stand for clients."""

    def left(source: str, claimed: str, requests: int = 30) -> int:
        """The requests that the address may still make without credentials."""
        claims = {"x-forwarded-for": claimed, "forwarded": f"for={claimed}", "x-real-ip": claimed}
        with httpx.Client(transport=httpx.HTTPTransport(local_address=source), headers=claims) as one:
            answers = [one.get(f"{system.address}/.well-known/jwks.json") for _ in range(requests)]
        return int(re.findall(r"r=(\d+)", answers[-1].headers["ratelimit"])[0])

    assert left("127.0.0.5", "203.0.113.71") > left("127.0.0.5", "203.0.113.72") > left("127.0.0.5", "127.0.0.6, ::1")
    assert left("127.0.0.6", "203.0.113.71") >= 570
    # GATEWAY_TRUSTED_PROXIES names this one, so each client behind it is counted for itself.
    assert left("127.0.0.9", "203.0.113.73") >= 570
    assert left("127.0.0.9", "203.0.113.74") >= 570
    assert left("127.0.0.9", "203.0.113.73", requests=100) <= 560  # 10 come back in a second


def test_a_refusal_that_comes_before_the_content_ends_the_connection(system: System) -> None:
    """Else the content would be taken for the end of the client, and each later request be answered 499."""
    fields = ["content-length: 3", "connection: keep-alive"]
    head, content = request("POST", "/api/files/upload?filename=a", "wrong", fields, b"abc")
    next_head, _ = request("GET", "/health/live", None)
    answers = exchange(system, "gateway", head, content, next_head)
    assert [(answer.status, answer.headers["connection"]) for answer in answers] == [(401, "close")]
