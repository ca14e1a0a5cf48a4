"""`up --scale`: several processes share the port of a service, and the others serve while one is away."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from artstore.local.ports import is_free
from artstore_cli.data_folder import DataFolder
from artstore_cli.errors import CommandError
from artstore_cli.fleet import Site, fleet, parse_scale
from artstore_cli.process_id import ProcessId, find_started

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 120
WAYS_TO_END = [signal.SIGKILL, signal.SIGTERM]


@dataclass(frozen=True)
class Scaled:
    folder: Path
    base: int
    token: str

    def parts(self) -> dict[str, Any]:
        shown = subprocess.run(
            artstore("status", self.folder, "--json"), capture_output=True, text=True, timeout=TIMEOUT_S
        )
        return {part["name"]: part for part in json.loads(shown.stdout)}

    def upload(self) -> httpx.Response:
        """Over a connection of its own."""
        return httpx.post(
            f"http://127.0.0.1:{self.base + 20}/api/files/upload?filename=a.bin",
            content=secrets.token_bytes(100),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/octet-stream"},
            timeout=TIMEOUT_S,
            trust_env=False,
        )

    def read(self, file_id: str) -> httpx.Response:
        address = f"http://127.0.0.1:{self.base + 30}/api/files/{file_id}"
        return httpx.get(address, headers={"Authorization": f"Bearer {self.token}"}, timeout=TIMEOUT_S, trust_env=False)


def artstore(command: str, folder: Path, *options: str) -> list[str]:
    return [str(ROOT / "artstore"), command, "--data", str(folder), *options]


def free_base() -> int:
    while True:
        base = 12_000 + secrets.randbelow(1_500) * 10
        if all(is_free(base + offset) for offset in (0, 10, 11, 12, 20, 30, 80)):
            return base


def post(url: str, body: dict[str, object], token: str = "") -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return dict(
        httpx.post(url, json=body, headers=headers, timeout=TIMEOUT_S, trust_env=False).raise_for_status().json()
    )


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scaled]:
    folder, base = tmp_path_factory.mktemp("scaled") / "data", free_base()
    options = (
        "--detach",
        "--port-base",
        str(base),
        "--scale",
        "ingester=2",
        "--scale",
        "query=2",
        "--scale",
        "admin=2",
    )
    started = subprocess.run(artstore("up", folder, *options), capture_output=True, text=True, timeout=TIMEOUT_S)
    assert started.returncode == 0, started.stdout + started.stderr
    admin = f"http://127.0.0.1:{base}"
    token = post(f"{admin}/api/auth/token", json.loads((folder / "keys" / "admin-client.json").read_text()))
    account = {"name": "user", "role": "USER", "rate_per_minute": 100_000}
    made = post(f"{admin}/api/service-accounts", account, token["access_token"])
    client = {name: made[name] for name in ("client_id", "client_secret")}
    yield Scaled(folder, base, post(f"{admin}/api/auth/token", client)["access_token"])
    processes = [part["pid"] for part in Scaled(folder, base, "").parts().values()]
    assert subprocess.run(artstore("down", folder), timeout=TIMEOUT_S).returncode == 0
    assert not any(find_started(pid) for pid in processes)


def answered(part: dict[str, Any], route: str) -> float:
    """The number of requests to the route that this process has answered, from its own port."""
    text = httpx.get(f"http://127.0.0.1:{part['port']}/metrics", timeout=TIMEOUT_S, trust_env=False).text
    lines = [line for line in text.splitlines() if line.startswith("http_requests_total{") and route in line]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not true():
        assert time.monotonic() < deadline


def test_each_process_gets_requests_and_counts_its_own(scaled: Scaled) -> None:
    parts = scaled.parts()
    assert {name for name, part in parts.items() if part["url"].endswith(f":{scaled.base + 20}")} == {
        "ingester", "ingester-2"}  # fmt: skip
    stored: list[str] = []

    def both_have_answered() -> bool:
        stored.append(scaled.upload().raise_for_status().json()["file_id"])
        assert scaled.read(stored[-1]).status_code == 200
        uploads = [answered(parts[name], "/api/files/upload") for name in ("ingester", "ingester-2")]
        reads = [answered(parts[name], "/api/files/{file_id}") for name in ("query", "query-2")]
        assert sum(uploads) == sum(reads) == len(stored)
        return all(uploads) and all(reads)

    until(both_have_answered)


@pytest.mark.parametrize("number", WAYS_TO_END)
def test_uploads_go_on_while_one_ingester_is_away(scaled: Scaled, number: signal.Signals) -> None:
    """It is started again. SIGTERM loses no new connection either: the one that drains has stopped listening."""
    pid = int(scaled.parts()["ingester-2"]["pid"])
    ended = ProcessId(pid, find_started(pid) or -1)
    ended.send(number)
    lost = 0

    def is_back() -> bool:
        nonlocal lost
        try:
            assert scaled.upload().status_code == 201
        except httpx.TransportError:  # what the killed process had accepted
            lost += 1
        now = scaled.parts()["ingester-2"]
        return int(now["pid"]) != pid and now["state"] == "ready"

    until(is_back)
    assert lost <= (number == signal.SIGKILL)


def test_a_restart_of_one_of_each_fails_no_request_through_the_gateway_that_is_sent_twice(scaled: Scaled) -> None:
    gateway, before = f"http://127.0.0.1:{scaled.base + 80}", scaled.parts()
    restarted = ("admin-2", "ingester-2", "query-2")
    file_id = scaled.upload().json()["file_id"]
    credentials = json.loads((scaled.folder / "keys" / "admin-client.json").read_text())
    failed: list[str] = []
    done = threading.Event()

    def keep_asking(method: str, path: str, **content: Any) -> None:
        with httpx.Client(
            headers={"Authorization": f"Bearer {scaled.token}"}, timeout=TIMEOUT_S, trust_env=False
        ) as one:
            while not done.is_set():
                answers = [one.request(method, gateway + path, **content)]
                if answers[0].status_code >= 500:
                    answers.append(one.request(method, gateway + path, **content))
                if answers[-1].status_code not in (200, 201):
                    failed.append(f"{method} {path}: {[(one.status_code, one.text) for one in answers]}")

    with ThreadPoolExecutor() as clients:
        work = [
            clients.submit(keep_asking, "POST", "/api/files/upload?filename=a", content=bytes(20_000)),
            clients.submit(keep_asking, "GET", f"/api/files/{file_id}/content"),
            clients.submit(keep_asking, "HEAD", f"/api/files/{file_id}"),
            clients.submit(keep_asking, "POST", "/api/auth/token", json=credentials),
        ]
        try:
            for name in restarted:
                os.kill(int(before[name]["pid"]), signal.SIGTERM)
            until(lambda: all(scaled.parts()[name]["state"] == "ready" for name in restarted))
            assert all(scaled.parts()[name]["pid"] != before[name]["pid"] for name in restarted)
        finally:
            done.set()
        for one in work:
            one.result()
    assert not failed


def test_the_gateway_uses_every_process_that_is_ready(scaled: Scaled) -> None:
    gateway, parts = f"http://127.0.0.1:{scaled.base + 80}", scaled.parts()

    def count() -> list[float]:
        return [answered(parts[name], "/api/files") for name in ("query", "query-2")]

    before = count()
    with httpx.Client(
        headers={"Authorization": f"Bearer {scaled.token}"}, timeout=TIMEOUT_S, trust_env=False
    ) as client:

        def both_have_answered() -> bool:
            """Over one connection: of two that are as busy, chance decides. A process that was started again a moment ago
            is noticed by the next health check."""
            for _ in range(16):
                assert client.get(f"{gateway}/api/files?limit=1").status_code == 200
            return all(now > then for now, then in zip(count(), before, strict=True))

        until(both_have_answered)


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("se-01=2", "a storage element is one process"),
        ("gateway=2", "there is no service 'gateway'; choose one of admin, ingester, query"),
        ("query", "give a number from 1 to 16"),
        ("query=0", "give a number from 1 to 16"),
        ("query=17", "give a number from 1 to 16"),
        ("query=two", "give a number from 1 to 16"),
    ],
)
def test_a_scale_that_cannot_be_is_refused(option: str, reason: str) -> None:
    with pytest.raises(CommandError, match=reason):
        parse_scale([option])


def test_a_service_is_scaled_once() -> None:
    assert parse_scale(["query=2", "ingester=3"]) == {"query": 2, "ingester": 3}
    with pytest.raises(CommandError, match="twice"):
        parse_scale(["query=2", "query=3"])


def test_processes_of_a_service_share_its_port_and_nothing_else(tmp_path: Path) -> None:
    site = Site(ROOT, DataFolder(tmp_path), 8000, own_ports={"admin": [1, 2], "ingester": [3, 4]})
    services = {service.name: service for service in fleet(site)}
    assert list(services) == ["admin", "admin-2", "se-01", "se-02", "se-03", "ingester", "ingester-2", "query"]
    first, second = (services[name].environment(site) for name in ("ingester", "ingester-2"))
    assert first["PORT"] == second["PORT"] == "8020"
    assert {name for name in first if first[name] != second[name]} == {"OWN_PORT", "AUDIT_FOLDER"}
    assert {"admin", "admin-2"} <= set(services["se-01"].needs)
