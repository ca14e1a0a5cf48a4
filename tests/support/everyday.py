"""The usual requests of programs to a running fleet, and their answers."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from .fleet import Fleet

AT_ONCE = 16
LONGEST_S = 30
"""Far above what a request may wait for with TIMEOUTS, far below a hang."""
TIMEOUTS = {"ELEMENT_CALL_TIMEOUT_S": "6", "ELEMENT_IDLE_TIMEOUT_S": "3", "PEER_TIMEOUT_S": "3",
            "DATABASE_COMMAND_TIMEOUT_S": "2", "DATABASE_CONNECT_TIMEOUT_S": "1"}  # fmt: skip


@dataclass(frozen=True)
class Seen:
    what: str
    status: int
    """0: no answer."""
    degraded: str
    retry_after: str
    took_s: float


@dataclass
class Load:
    """The usual requests of programs; each element has one file."""

    fleet: Fleet
    token: str
    on_edit: str
    on_rw: str

    def run(self, rounds: int, *, but: tuple[str, ...] = ()) -> list[Seen]:
        """Every thing of `asks`, as often, many at once."""
        with ThreadPoolExecutor(AT_ONCE) as pool, httpx.Client() as client:
            work = [ask for _ in range(rounds) for ask in self.asks() if ask[0] not in but]
            return list(pool.map(lambda ask: self._ask(client, *ask), work))

    def asks(self) -> list[tuple[str, str, str, dict[str, object]]]:
        ingester, query = self.fleet.url("ingester"), self.fleet.url("query")
        body: dict[str, object] = {"content": b"content", "headers": {"content-type": "text/plain"}}
        named: dict[str, object] = {"json": {"filename": "another"}}
        login: dict[str, object] = {"json": self.fleet.credentials("admin")}
        return [
            ("attributes", "GET", f"{query}/api/files/{self.on_edit}", {}),
            ("attributes", "GET", f"{query}/api/files/{self.on_rw}", {}),
            ("bytes", "GET", f"{query}/api/files/{self.on_edit}/content", {}),
            ("bytes on rw", "GET", f"{query}/api/files/{self.on_rw}/content", {}),
            ("list", "GET", f"{query}/api/files", {}),
            ("upload", "POST", f"{ingester}/api/files/upload?filename=a", body),
            ("update", "PATCH", f"{ingester}/api/files/{self.on_edit}", named),
            ("login", "POST", f"{self.fleet.url('admin-1')}/api/auth/token", login),
        ]

    def _ask(self, client: httpx.Client, what: str, method: str, url: str, options: dict[str, Any]) -> Seen:
        headers = {"authorization": f"Bearer {self.token}", **dict(options.get("headers", {}))}
        begun_s = time.monotonic()
        try:
            answer = client.request(method, url, **{**options, "headers": headers, "timeout": LONGEST_S})
        except httpx.TransportError:
            return Seen(what, 0, "", "", time.monotonic() - begun_s)
        told = answer.headers
        return Seen(
            *(what, answer.status_code, told.get("x-artstore-degraded", ""), told.get("retry-after", "")),
            time.monotonic() - begun_s,
        )


def load_of(fleet: Fleet) -> Load:
    """With a file on each element, and pools and caches as full as they get."""
    token = fleet.token()
    on_rw = fleet.upload(token).json()["file_id"]
    on_edit = fleet.upload(token, retention="temporary").json()["file_id"]
    made = Load(fleet, token, on_edit, on_rw)
    for _ in range(2):
        assert {seen.status for seen in made.run(20)} <= {200, 201}
    return made


def show(part: str, seen: list[Seen]) -> None:
    """For the table in docs/operations/outages.md: `pytest -rP`."""
    for what in dict.fromkeys(one.what for one in seen):
        of = [one for one in seen if one.what == what]
        counted = Counter((one.status, one.degraded, one.retry_after) for one in of)
        took_s = sorted(one.took_s for one in of)
        print(f"{part:<20}{what:<12}median {took_s[len(of) // 2]:.2f} s, longest {took_s[-1]:.2f} s {dict(counted)}")
