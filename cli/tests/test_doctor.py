"""Each check of `doctor` fails on what it is for. A server that answers as a system in trouble would stands for the system;
a real one: tests/client/test_doctor.py."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest

from artstore_cli.connection import Connection
from artstore_cli.data_folder import DataFolder
from artstore_cli.doctor.checks import CHECKS, examine
from artstore_cli.doctor.operation import NEEDED_METRICS
from artstore_cli.doctor.system import Examined

FILE_ID = "0198c0de-0000-7000-8000-00000000a1b2"


def ago(**age: float) -> str:
    return (datetime.now(UTC) - timedelta(**age)).isoformat()


def element(name: str, mode: str) -> dict[str, Any]:
    capacity = {"total_bytes": 100, "available_bytes": 50, "used_bytes": 0, "files": 0}
    known = {"status": "online", "away_reason": None, "read_only_reason": None, "refused": None}
    return {"id": name, "mode": mode, "root_id": f"root-{name}", "capacity": capacity, **known}


class World:
    """The answers of the server. As it is made, a system of which nothing is to be complained but the missing TLS."""

    def __init__(self, folder: DataFolder) -> None:
        self.folder = folder
        self.header: dict[str, str] = {"alg": "RS256", "typ": "at+jwt"}
        self.keys = [
            {"state": "active", "since": ago(hours=1), "bits": 2048},
            {"state": "next", "since": ago(hours=1), "bits": 2048},
        ]
        self.elements = [element("se-01", "edit"), element("se-02", "rw")]
        self.ready: tuple[int, dict[str, Any]] = 200, {}
        self.headers = {"ratelimit-policy": '"account";q=100'}
        self.origin = ""
        self.hanging: list[dict[str, Any]] = []
        self.audit: dict[str, Any] = {"ok": True, "events": 1, "chains": [1]}
        self.file: tuple[int, dict[str, Any]] = 200, {"revision": 1, "checksum": "sha256:0"}
        self.clock_ahead_s = 0.0
        self.metrics = dict.fromkeys(NEEDED_METRICS, 1.0)
        self.metrics |= {
            'http_requests_total{route="/metrics"}': 9.0,
            "backup_last_success_timestamp_seconds": time.time() - 60,
        }
        folder.log("admin").write_text('{"event": "x"}\n{"event')  # cut off by a full disk
        (folder.elements / "se-01").mkdir(parents=True)
        (folder.elements / "se-01" / "element.json").write_text('{"root_id": "root-se-01"}')
        leaf = folder.elements / "se-01" / "files" / "a1" / "b2"
        leaf.mkdir(parents=True)
        kept = {"file_id": FILE_ID, "revision": 1, "checksum": "sha256:0"}
        (leaf / f"{FILE_ID}.attr.json").write_text(json.dumps(kept))
        folder.keys.mkdir(parents=True)

    def answer(self, method: str, path: str) -> tuple[int, Any]:
        if path == "/metrics":
            return 200, "".join(f"{name} {value}\n" for name, value in self.metrics.items())
        if path == "/health/ready":
            return self.ready
        if path == "/api/auth/token":
            header = base64.urlsafe_b64encode(json.dumps(self.header).encode()).rstrip(b"=").decode()
            return 200, {"access_token": f"{header}.e30.x"}
        answers: dict[str, Any] = {
            "/health/live": {},
            "/api/auth/keys": {"items": self.keys},
            "/api/storage-elements": {"items": self.elements},
            "/api/sagas": {"items": self.hanging},
            "/api/audit/verify": self.audit,
            "/api/files": {"items": []},
        }
        return self.file if path.startswith("/api/files/") else (200, answers[path])


@pytest.fixture
def world(folder: DataFolder) -> World:
    return World(folder)


@pytest.fixture
def system(world: World) -> Iterator[Examined]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = world.answer(self.command, urlsplit(self.path).path)
            encoded = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            for name, value in world.headers.items():
                self.send_header(name, value)
            if world.origin:
                self.send_header("access-control-allow-origin", world.origin)
            self.send_header("content-length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        do_POST = do_OPTIONS = do_GET

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string(int(time.time() + world.clock_ahead_s))

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield Examined(Connection(url, "admin", "secret"), {"admin": url}, world.folder)
        finally:
            server.shutdown()


def verdicts(system: Examined) -> dict[str, set[tuple[str, str]]]:
    found: dict[str, set[tuple[str, str]]] = {name: set() for name in CHECKS}
    for one in examine(system):
        assert one.verdict == "pass" or one.remedy
        found[one.check].add((str(one.verdict), one.detail))
    return found


def test_a_sound_system_only_lacks_tls(system: Examined) -> None:
    found = verdicts(system)
    assert {name for name, answers in found.items() if {verdict for verdict, _ in answers} != {"pass"}} == {"tls"}


def metric(name: str, value: float) -> Callable[[World], None]:
    return lambda world: world.metrics.update({name: value})


def attribute(name: str, value: Any) -> Callable[[World], None]:
    return lambda world: setattr(world, name, value)


def first_element(**changes: Any) -> Callable[[World], None]:
    return lambda world: world.elements[0].update(changes)


def write(path: str, text: str, mode: int = 0o600) -> Callable[[World], None]:
    def change(world: World) -> None:
        place = world.folder.path / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)

    return change


NO_LOGIN = "postgresql+asyncpg://artstore_query:x@127.0.0.1:1/artstore"
TROUBLES: list[tuple[str, str, str, Callable[[World], object]]] = [
    ("health", "fail", "not ready: redis: away", attribute("ready", (503, {"checks": {"redis": {"detail": "away"}}}))),
    ("breakers", "fail", "to redis is open", metric('circuit_breaker_state{edge="redis"}', 2)),
    ("redis", "fail", "no service speaks to Redis", lambda world: world.metrics.pop("redis_operations_total")),
    ("redis", "warn", "event loop of admin is 3.0 s late", metric("event_loop_lag_seconds", 3)),
    ("tokens", "fail", "signed by HS256", attribute("header", {"alg": "HS256", "typ": "at+jwt"})),
    ("tokens", "fail", "30 h old", lambda world: world.keys[0].update(since=ago(hours=30))),
    ("tokens", "fail", "not one active and a next", lambda world: world.keys.pop()),
    ("secrets", "fail", "readable by everybody", write("keys/redis-password", "x", 0o644)),
    ("database roles", "fail", "cannot log in", write("keys/database-url-query", NO_LOGIN)),
    ("limits", "fail", "no RateLimit-Policy", attribute("headers", {})),
    ("cors", "fail", "every origin", attribute("origin", "*")),
    ("logs", "warn", "does not log JSON", write("logs/admin.log", "plain text\n")),
    ("logs", "warn", "3 log lines were dropped", metric("log_lines_dropped_total", 3)),
    ("metrics", "fail", "exports database", lambda world: world.metrics.pop("database_connections_active")),
    ("metrics", "warn", "nothing seems to scrape", metric('http_requests_total{route="/metrics"}', 1)),
    ("clocks", "fail", "differs from ours by", attribute("clock_ahead_s", 60)),
    ("clocks", "fail", "ahead of PostgreSQL", metric("clock_ahead_seconds", 9)),
    ("elements", "fail", "se-01 is away: gone", first_element(status="away", away_reason="gone")),
    ("elements", "fail", "read-only: EIO", first_element(read_only_reason="EIO")),
    ("elements", "fail", "temporary files cannot", first_element(mode="ro")),
    ("root ids", "fail", "refused root", first_element(refused={"code": "fenced"})),
    ("root ids", "fail", "2 elements report", first_element(root_id="root-se-02")),
    ("root ids", "fail", "another root than", write("elements/se-01/element.json", '{"root_id": "other"}')),
    ("disk space", "fail", "nothing left", first_element(capacity={"total_bytes": 100, "available_bytes": 0})),
    ("disk space", "warn", "5% of its space", first_element(capacity={"total_bytes": 100, "available_bytes": 5})),
    ("quarantine", "fail", "1 files: damaged", metric('upkeep_findings_total{problem="damaged"}', 1)),
    ("quarantine", "fail", "a disk has failed", metric("element_failed", 1)),
    ("quarantine", "warn", "1 files are in", write("elements/se-01/quarantine/x", "")),
    ("pending work", "warn", "1 sagas wait", attribute("hanging", [{}])),
    ("pending work", "warn", "elements still compare", metric("catalog_unreconciled_elements", 1)),
    ("pending work", "warn", "14 segments", metric("wal_used_segments", 14)),
    ("pending work", "warn", "100 s behind", metric("search_index_lag_seconds", 100)),
    ("catalog", "fail", "answered 404", attribute("file", (404, {}))),
    ("catalog", "fail", "another version", attribute("file", (200, {"revision": 1, "checksum": "sha256:1"}))),
    ("audit log", "fail", "damaged", attribute("audit", {"ok": False, "findings": ["x"], "events": 1, "chains": []})),
    ("audit log", "fail", "2 audit events were lost", metric("audit_events_dropped_total", 2)),
    ("backups", "fail", "no complete backup", metric("backup_last_success_timestamp_seconds", 0)),
    ("backups", "fail", "30 h old", lambda world: metric("backup_last_success_timestamp_seconds", time.time() - 108e3)(world)),
]  # fmt: skip


@pytest.mark.parametrize(("check", "verdict", "detail", "change"), TROUBLES)
def test_a_trouble_is_named(
    system: Examined, world: World, check: str, verdict: str, detail: str, change: Callable[[World], object]
) -> None:
    change(world)
    found = [(str(one.verdict), one.detail) for one in examine(system) if one.check == check]
    assert any(verdict == one and detail in text for one, text in found), found
    assert found[-1][0] != "pass"


def test_every_check_has_a_trouble_here() -> None:
    assert {check for check, *_ in TROUBLES} | {"tls"} == set(CHECKS)


def test_what_cannot_be_seen_from_outside_is_said(system: Examined) -> None:
    system.folder, system.services = None, {}
    found = verdicts(system)
    for name in (
        "breakers",
        "redis",
        "secrets",
        "database roles",
        "logs",
        "metrics",
        "quarantine",
        "catalog",
        "backups",
    ):
        assert {verdict for verdict, _ in found[name]} == {"warn"}, name
    for name in ("health", "tokens", "limits", "cors", "clocks", "elements", "root ids", "disk space", "audit log"):
        assert {verdict for verdict, _ in found[name]} == {"pass"}, name
