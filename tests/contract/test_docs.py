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


def test_the_login_of_the_page_is_the_token_endpoint(system: System) -> None:
    document = httpx.get(f"{system.url('admin')}/openapi.json").json()
    flow = document["components"]["securitySchemes"]["login"]["flows"]["clientCredentials"]
    known = system.credentials()
    answer = httpx.post(
        urljoin(system.url("admin"), flow["tokenUrl"]),
        data={"grant_type": "client_credentials", "scope": " ".join(s for s in flow["scopes"] if s == "keys:read")},
        auth=(known["client_id"], known["client_secret"]),
    )
    assert answer.json()["scope"] == "keys:read"
