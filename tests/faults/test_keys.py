"""Keys and accounts while everything runs: two admins, two elements, ingester and query, all of them real processes.

The times are a day's, shortened: a token lives 12 s, a key signs for 4 s and verifies for 24 s more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest
from support.fleet import Fleet, eventually, running_fleet

SHORT = {
    "ACCESS_TOKEN_LIFETIME_S": "12",
    "SIGNING_KEY_ROTATE_EVERY_S": "4",
    "JWKS_REFRESH_S": "1",
}
LOAD_S = 30
"""At least four rotations, and the end of the grace of the first keys."""
REQUESTS = 50
"""At least."""


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with running_fleet(settings=SHORT) as started:
        yield started


class Client(threading.Thread):
    """Logs in again when half of the token's life is over, as a client should, and asks every service in turn."""

    def __init__(self, fleet: Fleet, admin: str, stop: threading.Event) -> None:
        super().__init__()
        self.fleet, self.admin, self.stopped = fleet, admin, stop
        self.statuses: list[tuple[str, int]] = []

    def run(self) -> None:
        renew_at_s, token = 0.0, ""
        while not self.stopped.is_set():
            if time.monotonic() >= renew_at_s:
                token, renew_at_s = self.fleet.token(admin=self.admin), time.monotonic() + 4
            uploaded = self.fleet.upload(token)
            self.statuses.append(("upload", uploaded.status_code))
            if uploaded.status_code == 201:
                path = f"/api/files/{uploaded.json()['file_id']}"
                self.statuses.append(("read", self.fleet.call("GET", "query", f"{path}/content", token).status_code))
            for name, path in (
                ("se-01", "/api/files"),
                ("admin-1", "/api/sagas"),
                ("admin-2", "/api/storage-elements"),
            ):
                self.statuses.append((name, self.fleet.call("GET", name, path, token).status_code))


def test_no_valid_request_is_refused_while_keys_rotate(fleet: Fleet) -> None:
    stop = threading.Event()
    clients = [Client(fleet, admin, stop) for admin in ("admin-1", "admin-2")]
    kids = set()
    for client in clients:
        client.start()
    began_s = time.monotonic()
    while time.monotonic() - began_s < LOAD_S or sum(len(client.statuses) for client in clients) <= REQUESTS:
        assert time.monotonic() - began_s < 240
        keys = fleet.call("GET", "admin-2", "/api/auth/keys").json()["items"]
        assert [key["state"] for key in keys].count("active") == 1
        kids |= {key["kid"] for key in keys if key["state"] == "active"}
        time.sleep(0.5)
    stop.set()
    for client in clients:
        client.join(60)
    statuses = [status for client in clients for status in client.statuses]
    assert len(kids) >= 4
    assert [status for status in statuses if status[1] not in (200, 201)] == []


def test_tokens_of_a_suspended_account_are_refused_everywhere_within_a_minute(fleet: Fleet) -> None:
    account = fleet.new_account("ADMIN", name="to be suspended")
    path = f"/api/service-accounts/{account['id']}"
    credentials = {name: account[name] for name in ("client_id", "client_secret")}
    asked = {"ingester": "/api/files/x", "query": "/api/files", "se-01": "/api/files", "admin-1": "/api/sagas",
             "admin-2": "/api/sagas"}  # fmt: skip
    for change in ({"suspended": True}, {"role": "USER"}, {"expires_at": "2020-01-01T00:00:00Z"}, None):
        token = fleet.token(credentials)
        before = {name: status(fleet, name, asked[name], token) for name in asked}
        assert 401 not in before.values(), before
        method = "DELETE" if change is None else "PATCH"
        assert fleet.call(method, "admin-1", path, json=change).status_code in (200, 204)
        for name in asked:
            refused_within(12, fleet, name, asked[name], token)
        back = {"suspended": False, "role": "ADMIN", "expires_at": None}
        if change is not None:
            assert fleet.call("PATCH", "admin-2", path, json=back).status_code == 200


def test_tokens_of_a_revoked_key_are_refused_everywhere_and_work_continues(fleet: Fleet) -> None:
    token = fleet.token()
    kid = jwt.get_unverified_header(token)["kid"]  # what is active by now may be another: they rotate every 4 s
    revoked = fleet.call("POST", "admin-1", f"/api/auth/keys/{kid}/revoke")
    assert revoked.status_code == 200
    assert kid not in {key["kid"] for key in revoked.json()["items"]}
    for name, path in (
        ("admin-1", "/api/sagas"),
        ("admin-2", "/api/sagas"),
        ("query", "/api/files"),
        ("ingester", "/api/files/x"),
        ("se-01", "/api/files"),
    ):
        refused_within(12, fleet, name, path, token)
    # the modules' own tokens were revoked too: they have taken new ones by themselves
    eventually(lambda: fleet.upload(fleet.token()).status_code == 201, wait_s=10)
    assert fleet.call("POST", "admin-1", "/api/auth/keys/unknown/revoke").status_code == 404


@pytest.mark.parametrize("source", ["redis", "file"])
def test_a_verifier_started_while_admin_is_away_knows_the_keys(fleet: Fleet, source: str) -> None:
    kept = fleet.folder / "query-jwks.json"
    eventually(kept.exists)
    nowhere = {"redis": {"JWKS_FILE": ""}, "file": {"JWKS_FILE": str(kept), "REDIS_URL": "redis://127.0.0.1:9/0"}}
    name = f"query-{source}"
    token = fleet.token()
    fleet.start(name, {"ADMIN_URL": "http://127.0.0.1:9", **nowhere[source]}, account="query")
    try:
        eventually(lambda: status(fleet, name, "/api/files", fleet.token()) == 200, wait_s=30)
        assert status(fleet, name, "/api/files", token[:-6] + "AAAAAA") == 401
    finally:
        fleet.stop(name)


@pytest.mark.parametrize("skew_s", [3600, -3600])
def test_a_service_whose_clock_is_wrong_says_so_and_is_not_ready(fleet: Fleet, skew_s: int) -> None:
    """It refuses every token; a balancer that asks for readiness sends no requests there."""
    fleet.start("query-skewed", account="query", skew_s=skew_s)
    try:
        eventually(
            lambda: "differs from PostgreSQL's" in (checks(fleet, "query-skewed").get("clock", {}).get("detail") or "")
        )
        assert status(fleet, "query-skewed", "/health/ready", "") == 503
        assert status(fleet, "query-skewed", "/api/files", fleet.token()) == 401
    finally:
        fleet.stop("query-skewed")


def checks(fleet: Fleet, name: str) -> dict[str, Any]:
    """Its readiness checks; empty while the process does not listen."""
    try:
        found: dict[str, Any] = httpx.get(f"{fleet.url(name)}/health/ready", timeout=5).json()["checks"]
    except httpx.TransportError:
        return {}
    return found


def refused_within(wait_s: float, fleet: Fleet, name: str, path: str, token: str) -> None:
    """Well before the token ends by itself."""
    seen: list[int] = []
    until_s = time.monotonic() + wait_s
    while time.monotonic() < until_s and 401 not in seen:
        seen.append(status(fleet, name, path, token))
        time.sleep(0.1)
    assert seen[-1] == 401, (name, seen)


def status(fleet: Fleet, name: str, path: str, token: str) -> int:
    """0 while the process does not listen."""
    try:
        method = "PATCH" if name == "ingester" else "GET"
        return fleet.call(method, name, path, token).status_code
    except httpx.TransportError:
        return 0
