"""/docs of every service works without another origin, and under the prefix of a gateway."""

from __future__ import annotations

import re
from urllib.parse import urljoin

import httpx
import pytest
from support.system import System

FETCHED = re.compile(r'(?:src|href|url)[=:]\s?"([^"]+)"')


@pytest.mark.parametrize("service", ["admin", "se-01", "ingester", "query"])
def test_every_part_of_the_page_comes_from_below_it(system: System, service: str) -> None:
    page = httpx.get(f"{system.url(service)}/docs")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    links = FETCHED.findall(page.text)
    script = httpx.get(urljoin(str(page.url), "docs/start.js"))
    parts = [*links, *FETCHED.findall(script.text)]
    assert len(parts) == 5, parts
    for link in parts:
        assert urljoin("https://gateway/prefix/docs", link).startswith("https://gateway/prefix/docs/"), link
        part = httpx.get(urljoin(str(page.url), link))
        assert part.status_code == 200, link
        assert "content-security-policy" in part.headers
    assert not re.search(r"<script>|style=|onload|https?:", page.text)


def test_the_page_shows_the_document_of_the_service(system: System) -> None:
    base = system.url("query")
    shown, document = httpx.get(f"{base}/docs/openapi.json"), httpx.get(f"{base}/openapi.json")
    assert shown.json() == document.json()
    assert document.json()["servers"][0]["url"] == "/"
    assert httpx.head(f"{base}/docs").status_code == 200
    assert httpx.get(f"{base}/docs/../../etc/passwd").status_code == 404
    assert httpx.get(f"{base}/docs/%2e%2e%2fmain.py").status_code == 404


def login_of(document: str) -> tuple[str, str]:
    """The address of the login, and a scope that it may ask for."""
    read = httpx.get(document).json()
    flow = read["components"]["securitySchemes"]["login"]["flows"]["clientCredentials"]
    return urljoin(document, flow["tokenUrl"]), min(flow["scopes"])


def log_in(system: System, url: str, scope: str) -> httpx.Response:
    known = system.credentials()
    asked = {"grant_type": "client_credentials", "scope": scope}
    return httpx.post(url, data=asked, auth=(known["client_id"], known["client_secret"]))


@pytest.mark.parametrize("service", ["admin", "se-01", "ingester", "query"])
def test_the_page_of_each_service_logs_in(system: System, service: str) -> None:
    if system.data is None and service != "admin":
        pytest.skip("containers reach admin by a name of their own")
    base = system.url(service)
    login, scope = login_of(f"{base}/openapi.json")
    assert login == f"{system.url('admin')}/api/auth/token"
    policy = httpx.get(f"{base}/docs").headers["content-security-policy"]
    assert service == "admin" or f"connect-src 'self' {system.url('admin')}" in policy
    asked = {"origin": base, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    allowed = httpx.options(login, headers=asked)
    assert service == "admin" or allowed.headers["access-control-allow-origin"] == base
    assert log_in(system, login, scope).status_code == 200


@pytest.mark.parametrize("service", ["admin", "ingester", "query"])
def test_the_page_logs_in_through_the_gateway(system: System, service: str) -> None:
    gateway = system.url("gateway")
    login, scope = login_of(f"{gateway}/{service}/docs/openapi.json")
    assert login == f"{gateway}/api/auth/token"
    policy = httpx.get(f"{gateway}/{service}/docs").headers["content-security-policy"]
    assert policy.endswith("connect-src 'self'")
    assert log_in(system, login, scope).json()["scope"] == scope
