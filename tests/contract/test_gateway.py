"""The gateway: every route leads to the service that DESIGN names, and what it answers itself has the form of the services'."""

from __future__ import annotations

import json

import httpx
import pytest
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
            assert described == client.get(f"{system.url(service)}/openapi.json").json()


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
