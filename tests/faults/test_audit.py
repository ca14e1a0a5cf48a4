"""The audit log while PostgreSQL is away and processes die; and what each module's account is for."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from support.fleet import Fleet, eventually, running_fleet

from artstore.audit.event import is_signed_by

OFTEN = {"AUDIT_CHECKPOINT_EVERY_S": "2", "JWKS_REFRESH_S": "1"}


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with running_fleet(settings=OFTEN) as started:
        yield started


def events(fleet: Fleet, **params: str) -> list[dict[str, Any]]:
    answer = fleet.call("GET", "admin-1", "/api/audit", params={"limit": "1000", **params})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


def test_every_service_writes_what_it_refuses_and_what_it_destroys(fleet: Fleet) -> None:
    account = fleet.new_account("READONLY")
    token = fleet.token({name: account[name] for name in ("client_id", "client_secret")})
    asked = {
        "admin-1": ("POST", "/api/auth/keys/rotate"),
        "se-01": ("GET", "/api/files"),
        "ingester": ("DELETE", "/api/files/x"),
    }
    for name, (method, path) in asked.items():
        assert fleet.call(method, name, path, token).status_code == 403
    assert httpx.get(f"{fleet.url('query')}/api/files").status_code == 401
    file_id = fleet.upload(fleet.token(), retention="temporary", ttl_days="1").json()["file_id"]
    assert fleet.call("DELETE", "ingester", f"/api/files/{file_id}").status_code == 204
    changed = fleet.call("POST", "admin-1", "/api/storage-elements/se-02/mode", json={"mode": "ro"})
    assert changed.status_code == 200, changed.text

    seen: list[Any] = []

    def complete() -> bool:
        denied = {event["service"] for event in events(fleet, action="access:denied")}
        deleted = events(fleet, action="file:delete", resource=file_id)
        modes = {event["service"] for event in events(fleet, action="element:mode")}
        seen[:] = [denied, deleted, modes]
        return denied >= {"admin", "se-01", "ingester", "query"} and bool(deleted) and modes == {"admin", "se-02"}

    try:
        eventually(complete)
    except AssertionError as error:
        raise AssertionError(seen) from error
    verified = fleet.call("GET", "admin-2", "/api/audit/verify").json()
    assert verified["findings"] == []
    assert len(verified["chains"]) >= 6


def test_no_event_is_lost_while_postgresql_is_away_and_the_writer_dies(fleet: Fleet) -> None:
    token = fleet.token()
    file_id = fleet.upload(token, retention="temporary", ttl_days="1").json()["file_id"]
    account = fleet.new_account("AUDITOR")
    auditor = fleet.token({name: account[name] for name in ("client_id", "client_secret")})
    fleet.postgres.stop()
    deleted = fleet.call("DELETE", "ingester", f"/api/files/{file_id}", token)
    for _ in range(3):
        assert fleet.call("GET", "query", "/api/files", auditor).status_code == 403
    acknowledged = deleted.status_code == 204
    assert acknowledged or deleted.status_code in (502, 503)
    for name in ("query", "ingester"):
        fleet.stop(name, signal.SIGKILL)
    fleet.start_postgres()
    before = len(events_when_back(fleet, action="access:denied", service="query"))
    for name in ("query", "ingester"):
        fleet.start(name)
    eventually(lambda: len(events(fleet, action="access:denied", service="query")) >= before + 3, wait_s=30)
    if acknowledged:
        eventually(lambda: events(fleet, action="file:delete", resource=file_id), wait_s=30)
    fleet.ready("query", "ingester")
    assert fleet.call("GET", "admin-1", "/api/audit/verify").json()["findings"] == []


def events_when_back(fleet: Fleet, **params: str) -> list[dict[str, Any]]:
    eventually(lambda: fleet_answers(fleet), wait_s=60)
    return events(fleet, **params)


def fleet_answers(fleet: Fleet) -> bool:
    try:
        return fleet.call("GET", "admin-1", "/api/audit").status_code == 200
    except httpx.HTTPError:
        return False


def test_module_accounts_hold_no_more_than_they_use(fleet: Fleet) -> None:
    """Every permission of every module's account is taken away once, and something real breaks; given back, it works."""
    held = {account["client_id"]: account for account in accounts(fleet) if account["role"] == "SERVICE"}
    assert {name: account["permissions"] for name, account in held.items()} == {
        "se-01": ["elements:report"],
        "se-02": ["elements:report"],
        "se-03": ["elements:report"],
        "ingester": ["elements:read", "sagas:write", "storage:read", "storage:write"],
        "query": ["elements:read", "storage:read"],
    }
    breaks = {
        "elements:report": reports,
        "sagas:write": uploads,
        "storage:write": uploads,
        "storage:read": reads_past_the_catalog,
        "elements:read": starts_without_redis,
    }
    for client_id in ("se-01", "ingester", "query"):
        account = held[client_id]
        for permission in account["permissions"]:
            works = breaks[permission]
            give(fleet, account, [other for other in account["permissions"] if other != permission])
            assert not works(fleet, client_id), f"{client_id} does not need {permission}"
            give(fleet, account, account["permissions"])
            eventually(partial(works, fleet, client_id))


def test_module_accounts_can_do_nothing_else(fleet: Fleet) -> None:
    forbidden = {
        "admin-1": ["/api/service-accounts", "/api/auth/keys", "/api/audit", "/api/sagas"],
        "ingester": ["/api/files/x"],
        "query": ["/api/files"],
    }
    for client_id in ("se-01", "ingester", "query"):
        token = fleet.token(fleet.credentials(client_id))
        for name, paths in forbidden.items():
            for path in paths:
                method = "DELETE" if name == "ingester" else "GET"
                assert fleet.call(method, name, path, token).status_code == 403, (client_id, name, path)
    assert fleet.call("GET", "se-01", "/api/files", fleet.token(fleet.credentials("se-01"))).status_code == 403


def accounts(fleet: Fleet) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = fleet.call("GET", "admin-1", "/api/service-accounts").json()["items"]
    return found


def give(fleet: Fleet, account: dict[str, Any], permissions: list[str]) -> None:
    """Returns when tokens with more permissions are revoked everywhere: no work continues with them."""
    token = fleet.token(fleet.credentials(account["client_id"]))
    taken = set(fleet_claims(token)["permissions"]) - set(permissions)
    path = f"/api/service-accounts/{account['id']}"
    assert fleet.call("PATCH", "admin-1", path, json={"permissions": permissions}).status_code == 200
    for name, asked in (("se-01", "/api/files"), ("admin-1", "/api/sagas"), ("admin-2", "/api/sagas")):
        if taken:
            eventually(partial(rejects, fleet, name, asked, token))


def rejects(fleet: Fleet, name: str, path: str, token: str) -> bool:
    return fleet.call("GET", name, path, token).status_code == 401


def fleet_claims(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def uploads(fleet: Fleet, _client_id: str) -> bool:
    return fleet.upload(fleet.token(), retention="temporary", ttl_days="1").status_code == 201


def reports(fleet: Fleet, client_id: str) -> bool:
    """Started anew, the element is seen by admin."""

    def last_seen() -> str:
        return str(fleet.call("GET", "admin-1", f"/api/storage-elements/{client_id}").json()["last_seen_at"])

    was = last_seen()
    fleet.stop(client_id)
    fleet.start(client_id)
    eventually(lambda: httpx_answers(f"{fleet.url(client_id)}/health/live"))
    try:
        eventually(lambda: last_seen() > was, wait_s=6)
    except AssertionError:
        return False
    fleet.ready(client_id)
    return True


def reads_past_the_catalog(fleet: Fleet, client_id: str) -> bool:
    """The file's row is lost, so the elements are asked: by query for the record, by ingester before it changes it."""
    fleet_token = fleet.token()
    # the module fetches another token at the first refusal, at most one a second
    file_id = eventually(lambda: fleet.upload(fleet_token, retention="temporary", ttl_days="1").json().get("file_id"))
    sql(fleet, f"DELETE FROM files WHERE file_id = '{file_id}'")
    if client_id == "query":
        return fleet.call("GET", "query", f"/api/files/{file_id}", fleet_token).status_code == 200
    changed = fleet.call("PATCH", "ingester", f"/api/files/{file_id}", fleet_token, json={"tags": ["found"]})
    return changed.status_code == 200


def starts_without_redis(fleet: Fleet, client_id: str) -> bool:
    """A second one, without Redis and without a kept registry, learns of the elements from admin."""
    name = f"{client_id}-2"
    fleet.start(name, {"REDIS_URL": "redis://127.0.0.1:9/0", "JWKS_FILE": ""}, account=client_id)
    try:
        eventually(lambda: httpx_answers(f"{fleet.url(name)}/health/ready"), wait_s=10)
    except AssertionError:
        return False
    finally:
        fleet.stop(name)
    return True


def httpx_answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def sql(fleet: Fleet, statement: str) -> list[asyncpg.Record]:
    async def run() -> list[asyncpg.Record]:
        url = fleet.postgres.url(fleet.database).replace("+asyncpg", "")
        connection = await asyncpg.connect(url)
        rows: list[asyncpg.Record] = await connection.fetch(statement)
        await connection.close()
        return rows

    return asyncio.run(run())


def test_no_secret_is_in_any_log(fleet: Fleet) -> None:
    logs = "".join((fleet.folder / f"{name}.log").read_text(errors="replace") for name in fleet.names)
    secrets = [path.read_text().strip() for path in Path(fleet.folder, "keys").glob("*.secret")]
    assert [secret for secret in secrets if secret in logs] == []


def test_an_event_whose_place_was_taken_by_a_forged_one_is_not_lost(fleet: Fleet) -> None:
    """The last test of this fleet: the log is spoilt by it. The place of the event that keeps it is taken as well."""
    chain = events(fleet, service="query", action="access:denied")[0]["chain"]
    sql(
        fleet,
        f"""INSERT INTO audit_events (chain, seq, prev, "timestamp", service, action, user_id, resource, result, metadata,
            signature, hash)
        SELECT chain, seq + more, hash, now(), service, 'nothing.happened', '-', '-', 'ok', '{{}}', signature, hash
        FROM (SELECT * FROM audit_events WHERE chain = '{chain}' ORDER BY seq DESC LIMIT 1) AS last,
            generate_series(1, 2) AS more""",
    )
    assert httpx.get(f"{fleet.url('query')}/api/files/mallory").status_code == 401
    (displaced,) = eventually(lambda: events(fleet, action="audit:displaced"))
    true = displaced["metadata"]["event"]
    assert (true["action"], true["resource"]) == ("access:denied", "mallory")
    assert displaced["seq"] == true["seq"] + 2
    key = sql(fleet, f"SELECT public_key FROM audit_keys WHERE chain = '{chain}'")[0]["public_key"]
    assert is_signed_by(true, Ed25519PublicKey.from_public_bytes(key))
    reported = [
        line for line in (fleet.folder / "query.log").read_text().splitlines() if "audit event displaced" in line
    ]
    assert "/api/files/mallory" in reported[0]
    findings = fleet.call("GET", "admin-1", "/api/audit/verify").json()["findings"]
    assert {(chain, true["seq"]), (chain, true["seq"] + 1)} <= {(one["chain"], one["seq"]) for one in findings}
