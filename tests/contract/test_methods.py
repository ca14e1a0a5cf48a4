"""Methods that a resource lacks, and the order in which a request is refused."""

from __future__ import annotations

import uuid

import httpx
import pytest
from support.system import System


@pytest.fixture(scope="module")
def client(system: System) -> httpx.Client:
    return system.client()


@pytest.mark.parametrize(
    ("service", "method", "path", "allow"),
    [
        *(("admin", method, f"/api/sagas/{name}", "POST")
          for method in ("GET", "HEAD", "DELETE") for name in ("uploads", "commit", "abort", "changes")),
        *(("ingester", method, "/api/files/upload", "POST") for method in ("GET", "PATCH", "DELETE")),
        ("se-01", "GET", "/api/files/put-group", "POST"),
        ("se-01", "PATCH", "/api/files/contents", "GET, HEAD"),
        ("query", "DELETE", "/api/files", "GET, HEAD"),
    ],
)  # fmt: skip
def test_a_fixed_path_with_a_wrong_method_is_405_although_a_parameter_matches_it(
    system: System, client: httpx.Client, service: str, method: str, path: str, allow: str
) -> None:
    answer = client.request(method, system.url(service) + path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)


def test_a_wrong_method_is_405_also_with_content_that_it_never_takes(system: System, client: httpx.Client) -> None:
    for service, method, path in [
        ("admin", "GET", "/api/auth/token"),
        ("admin", "DELETE", "/api/service-accounts"),
        ("ingester", "GET", "/api/files/upload"),
    ]:
        answer = client.request(method, system.url(service) + path, json={})
        assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed"), path
    assert client.request("GET", f"{system.url('admin')}/api/sagas", json={}).status_code == 400


@pytest.mark.parametrize("service", ["ingester", "se-01"])
@pytest.mark.parametrize(("method", "path"), [("PATCH", ""), ("DELETE", ""), ("PUT", "/content")])
def test_an_id_is_looked_at_before_the_condition_and_the_content(
    system: System, service: str, method: str, path: str
) -> None:
    token = system.token("ingester", (system.keys / "ingester.secret").read_text()) if service == "se-01" else None
    with system.client(token) as own:
        url = f"{system.url(service)}/api/files/not-an-id{path}"
        answer = own.request(method, url, headers={"if-match": '"nothing"'})
    assert answer.status_code == (404 if service == "ingester" else 400)


@pytest.mark.parametrize("cursor", ["", " ", "0", "é", "{}", f"{{{uuid.uuid4()}}}", str(uuid.uuid4()).upper(), "W10="])
@pytest.mark.parametrize(
    ("service", "path"),
    [("admin", "/api/service-accounts"), ("admin", "/api/sagas"), ("query", "/api/files"), ("se-01", "/api/files")],
)
def test_only_cursors_as_they_were_given_out_are_taken(
    system: System, client: httpx.Client, service: str, path: str, cursor: str
) -> None:
    answer = client.get(system.url(service) + path, params={"cursor": cursor})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_fields")


@pytest.mark.parametrize("value", ["0.5", "1767225600", "2026-01-01", "2026-01-01T00:00:00", "20260101T000000Z", "now"])
@pytest.mark.parametrize(
    ("service", "path", "name"),
    [("admin", "/api/audit", "since"), ("admin", "/api/audit", "until"), ("query", "/api/files", "created_from")],
)
def test_only_rfc_3339_counts_as_a_time(
    system: System, client: httpx.Client, service: str, path: str, name: str, value: str
) -> None:
    answer = client.get(system.url(service) + path, params={name: value})
    assert (answer.status_code, answer.json()["fields"]) == (422, [name])


def test_a_number_is_no_time_in_a_body_either(system: System, client: httpx.Client) -> None:
    answer = client.post(f"{system.url('admin')}/api/service-accounts", json={"expires_at": 4102444800})
    assert (answer.status_code, answer.json()["fields"]) == (422, ["expires_at"])
