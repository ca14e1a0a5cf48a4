"""With the id of a request at the gateway every line about it is found, in the logs of all services."""

from __future__ import annotations

import json
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.system import System

TIMEOUT_S = 120
TOGETHER = 24
Line = dict[str, Any]


class Logs:
    """The lines that the services have written since the object was made."""

    def __init__(self, folder: Path) -> None:
        self._began = {path: path.stat().st_size for path in folder.iterdir()}

    def lines(self) -> list[Line]:
        found: list[Line] = []
        for path, begin in self._began.items():
            content = path.read_bytes()[begin:]
            found += [json.loads(line) for line in content.splitlines()[:-1] if line.startswith(b"{")]
            last = content.rpartition(b"\n")[0].rpartition(b"\n")[2]
            found += [json.loads(last)] if last.startswith(b"{") else []
        return [line for line in found if "service" in line]

    def of(self, request_id: str, services: set[str]) -> dict[str, list[Line]]:
        """By service, the lines that name the request, once all of `services` have one of their answers."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while True:
            named = [
                line for line in self.lines() if request_id in (line.get("request_id"), *line.get("request_ids", ()))
            ]
            answered = {line["service"] for line in named if line["event"] == "request"}
            if services <= answered:
                return {service: [line for line in named if line["service"] == service] for service in answered}
            assert time.monotonic() < deadline_s, f"{services - answered} wrote no line for {request_id}"
            time.sleep(0.05)


@pytest.fixture
def logs(system: System) -> Logs:
    assert system.data is not None
    return Logs(system.data / "logs")


@pytest.fixture
def gateway(system: System) -> httpx.Client:
    client = system.client()
    client.base_url = httpx.URL(system.address)
    return client


def upload(client: httpx.Client, headers: dict[str, str] | None = None) -> httpx.Response:
    form = {"retention": "temporary", "ttl_days": "1"}
    return client.post("/api/files/upload", params=form, content=secrets.token_bytes(5), headers=headers)


def access(lines: list[Line]) -> Line:
    (found,) = [line for line in lines if line["event"] == "request"]
    return found


def test_an_upload(gateway: httpx.Client, logs: Logs) -> None:
    answer = upload(gateway)
    file_id, request_id = answer.json()["file_id"], answer.headers["x-request-id"]
    element = answer.json()["storage_element_id"]
    found = logs.of(request_id, {"ingester", element, "admin"})
    line = dict(access(found["ingester"]))
    assert line.pop("took_ms") > 0
    assert line.pop("timestamp")
    trace_id = line.pop("trace_id")
    assert line == {
        "source": "artstore.http.edge",
        "event": "request",
        "level": "info",
        "service": "ingester",
        "method": "POST",
        "route": "/api/files/upload",
        "status": 201,
        "code": None,
        "complete": True,
        "received_bytes": 5,
        "sent_bytes": len(answer.content),
        "address": "127.0.0.1",
        "client_id": "admin",
        "file_id": file_id,
        "request_id": request_id,
    }
    assert [one for lines in found.values() for one in lines if one.get("trace_id") != trace_id] == []
    assert access(found[element])["file_id"] == file_id


def test_a_cold_read(gateway: httpx.Client, logs: Logs) -> None:
    record = upload(gateway).json()
    answer = gateway.get(f"/api/files/{record['file_id']}/content", headers={"x-forwarded-for": "192.0.2.7"})
    found = logs.of(answer.headers["x-request-id"], {"query", record["storage_element_id"]})
    line = access(found["query"])
    assert (line["status"], line["sent_bytes"], line["file_id"]) == (200, 5, record["file_id"])
    assert access(found[record["storage_element_id"]])["file_id"] == record["file_id"]


def test_a_refused_request(system: System, gateway: httpx.Client, logs: Logs) -> None:
    file_id = upload(gateway).json()["file_id"]
    answer = httpx.delete(
        f"{system.url('ingester')}/api/files/{file_id}",
        headers={"authorization": "Bearer wrong", "x-forwarded-for": "192.0.2.8, 192.0.2.9"},
    )
    line = access(logs.of(answer.headers["x-request-id"], {"ingester"})["ingester"])
    assert (line["status"], line["code"], line["client_id"]) == (401, "unauthenticated", None)
    assert (line["file_id"], line["address"]) == (file_id, "192.0.2.9")


def test_a_delete(gateway: httpx.Client, logs: Logs) -> None:
    record = upload(gateway).json()
    answer = gateway.delete(f"/api/files/{record['file_id']}")
    assert answer.status_code == 204
    found = logs.of(answer.headers["x-request-id"], {"ingester", record["storage_element_id"]})
    assert {access(lines)["file_id"] for lines in found.values()} == {record["file_id"]}


def test_uploads_that_share_calls_to_other_services(gateway: httpx.Client, logs: Logs) -> None:
    begun = [{"x-request-id": f"together-{secrets.token_hex(8)}"} for _ in range(TOGETHER)]
    with ThreadPoolExecutor(TOGETHER) as threads:
        records = [answer.json() for answer in threads.map(lambda headers: upload(gateway, headers), begun)]
    for headers, record in zip(begun, records, strict=True):
        logs.of(headers["x-request-id"], {"ingester", record["storage_element_id"], "admin"})


def test_a_signed_link_names_its_file_and_not_itself(system: System, gateway: httpx.Client, logs: Logs) -> None:
    file_id = upload(gateway).json()["file_id"]
    url = gateway.post(f"/api/files/{file_id}/links", json={"ttl_s": 60}).json()["url"]
    answer = httpx.get(url)
    line = access(logs.of(answer.headers["x-request-id"], {"query"})["query"])
    assert (line["route"], line["file_id"], line["status"]) == ("/api/links/{link}", file_id, 200)
    assert system.data is not None
    assert not [
        path for path in (system.data / "logs").iterdir() if url.rpartition("/")[2].encode() in path.read_bytes()
    ]


def test_background_work_has_ids_of_its_own(system: System, gateway: httpx.Client) -> None:
    """Its calls to other services carry them, so their lines are found together too."""
    assert system.data is not None
    lines = Logs(system.data / "logs")
    lines._began = dict.fromkeys(lines._began, 0)
    reports = [line for line in lines.lines() if line.get("route") == "/api/storage-elements/{element_id}/report"]
    assert any(line["request_id"].startswith("announce:") for line in reports)
    assert all(line["trace_id"] for line in reports)
