"""PostgreSQL and Redis answer and refuse work: users see what docs/operations/outages.md says, and the system recovers by itself.

One fleet with two query instances; each refusal is brought about in the real server, as an operator's mishap would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest
from redis import Redis
from redis.client import PubSub
from support.everyday import Load, show
from support.fleet import Fleet, eventually, running_fleet
from support.layout import SMALL

QUERIES = ("query", "query-2")
WELL = {"attributes": 200, "bytes": 200, "bytes on rw": 200, "list": 200, "upload": 201, "update": 200, "login": 200}
CLOSED = WELL | {"list": 503, "upload": 503, "login": 503}
WRITES_REFUSED = WELL | {"upload": 503}
READS = ("attributes", "bytes", "bytes on rw")
NOT_READY = {"admin-1": 503, "ingester": 503, "se-01": 503, "query": 200}
FULL = """CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END$$"""
TABLES = ("files", "sagas", "outbox", "accounts", "idempotency_keys")


@pytest.fixture(scope="module")
def load() -> Iterator[Load]:
    with running_fleet((*SMALL, "query-2")) as fleet:
        token = fleet.token()
        on_rw = fleet.upload(token).json()["file_id"]
        on_edit = fleet.upload(token, retention="temporary").json()["file_id"]
        made = Load(fleet, token, on_edit, on_rw)
        eventually(lambda: is_well(made))
        yield made


# PostgreSQL ---------------------------------------------------------------------------------------------------------


def sql(fleet: Fleet, *statements: str, database: str = "postgres") -> None:
    async def run() -> None:
        connection = await asyncpg.connect(
            host="127.0.0.1", port=fleet.postgres.port, user="postgres", database=database
        )
        try:
            await connection.execute("SET default_transaction_read_only = off")
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


def end_connections(fleet: Fleet, database: str) -> None:
    sql(fleet, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")


@contextmanager
def read_only(fleet: Fleet) -> Iterator[None]:
    sql(fleet, "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
    try:
        yield
    finally:
        sql(fleet, "ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")


@contextmanager
def closed(fleet: Fleet) -> Iterator[None]:
    sql(fleet, f"ALTER DATABASE {fleet.database} ALLOW_CONNECTIONS false")
    end_connections(fleet, fleet.database)
    try:
        yield
    finally:
        sql(fleet, f"ALTER DATABASE {fleet.database} ALLOW_CONNECTIONS true")


@contextmanager
def renamed(fleet: Fleet) -> Iterator[None]:
    sql(fleet, f"ALTER DATABASE {fleet.database} ALLOW_CONNECTIONS false")
    end_connections(fleet, fleet.database)
    sql(
        fleet,
        f"ALTER DATABASE {fleet.database} RENAME TO elsewhere",
        "ALTER DATABASE elsewhere ALLOW_CONNECTIONS true",
    )
    try:
        yield
    finally:
        sql(fleet, f"ALTER DATABASE elsewhere RENAME TO {fleet.database}")


@contextmanager
def _hba(fleet: Fleet, method: str) -> Iterator[None]:
    path = fleet.folder / "postgres" / "pg_hba.conf"
    before = path.read_text()
    path.write_text(f"host {fleet.database} all 127.0.0.1/32 {method}\n{before}")
    sql(fleet, "SELECT pg_reload_conf()")
    end_connections(fleet, fleet.database)
    try:
        yield
    finally:
        path.write_text(before)
        sql(fleet, "SELECT pg_reload_conf()")


@contextmanager
def rejected(fleet: Fleet) -> Iterator[None]:
    with _hba(fleet, "reject"):
        yield


@contextmanager
def wrong_password(fleet: Fleet) -> Iterator[None]:
    with _hba(fleet, "scram-sha-256"):
        yield


@contextmanager
def full(fleet: Fleet) -> Iterator[None]:
    """Each write fails as on a full disk; a real one would need a file system of its own."""
    each = [f"CREATE TRIGGER full_disk BEFORE INSERT ON {table} EXECUTE FUNCTION full_disk()" for table in TABLES]
    sql(fleet, FULL, *each, database=fleet.database)
    try:
        yield
    finally:
        sql(fleet, "DROP FUNCTION full_disk CASCADE", database=fleet.database)


Refusal = Callable[[Fleet], AbstractContextManager[None]]
POSTGRES = {
    "read-only": (read_only, WRITES_REFUSED),
    "no space left": (full, WRITES_REFUSED),
    "closed": (closed, CLOSED),
    "renamed": (renamed, CLOSED),
    "logins rejected": (rejected, CLOSED),
    "another password": (wrong_password, CLOSED),
}


@pytest.mark.parametrize("kind", POSTGRES)
def test_what_users_see_while_postgresql_refuses_and_that_it_heals_by_itself(load: Load, kind: str) -> None:
    fleet = load.fleet
    refuse, expected = POSTGRES[kind]
    traces = tracebacks(fleet)
    with refuse(fleet):
        # the writers that write all the time are not ready; a full disk shows only to those that have written
        expected_ready = NOT_READY if kind != "no space left" else {"admin-1": 503, "query": 200}
        eventually(lambda: load.run(1) and readiness(fleet, expected_ready))
        if kind != "no space left":  # no read meets that
            eventually(lambda: all(database_check_fails(load, query) for query in QUERIES))
        seen = load.run(4)
        show(kind, seen)
        answers = keyed_and_administrative(load)
    assert {(one.what, one.status) for one in seen} == set(expected.items())
    assert all(int(one.retry_after) <= 5 for one in seen if one.status == 503)
    for what, answer in answers.items():
        assert answer.status_code == 503, f"{what}: {answer.text}"
        assert int(answer.headers["retry-after"]) <= 5, what
        assert "database" in answer.json()["away"], f"{what}: {answer.text}"
    if kind != "no space left":
        assert all("database" in one.degraded for one in seen if one.what in READS)
    eventually(lambda: is_well(load))
    assert tracebacks(fleet) == traces


def readiness(fleet: Fleet, expected: dict[str, int]) -> bool:
    """Writers tell their balancer; query goes on."""
    found = {name: httpx.get(f"{fleet.url(name)}/health/ready", timeout=30).status_code for name in expected}
    return found == expected


def keyed_and_administrative(load: Load) -> dict[str, httpx.Response]:
    """Requests that need PostgreSQL although it holds no file's bytes."""
    fleet, token = load.fleet, load.token
    key = {"idempotency-key": '"one"'}
    return {
        "upload": fleet.upload(token),
        "keyed PATCH": fleet.call(
            "PATCH", "ingester", f"/api/files/{load.on_edit}", token, json={"filename": "b"}, headers=key
        ),
        "new account": fleet.call("POST", "admin-1", "/api/service-accounts", token, json={"role": "USER"}),
    }


def is_well(load: Load) -> bool:
    seen = load.run(1)
    return {(one.what, one.status) for one in seen} == set(WELL.items()) and not any(one.degraded for one in seen)


def tracebacks(fleet: Fleet) -> int:
    return sum(log.read_text(errors="replace").count("Traceback") for log in Path(fleet.folder).glob("*.log"))


def test_an_operators_statement_timeout_never_ends_in_500(load: Load) -> None:
    """Some statements are quick enough and some are not, so each answer is one of two."""
    fleet = load.fleet
    sql(fleet, f"ALTER DATABASE {fleet.database} SET statement_timeout = '1ms'")
    end_connections(fleet, fleet.database)
    try:
        seen = load.run(6)
    finally:
        sql(fleet, f"ALTER DATABASE {fleet.database} RESET statement_timeout")
        end_connections(fleet, fleet.database)
    show("statement timeout", seen)
    # 409: an update whose turn comes while the one before it is not settled
    assert {one.status for one in seen if one.status != WELL[one.what]} <= {409, 503}
    eventually(lambda: is_well(load))


# Redis --------------------------------------------------------------------------------------------------------------

REDIS = {
    "replica": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    "no memory left": (("CONFIG", "SET", "maxmemory", "1mb"), ("CONFIG", "SET", "maxmemory", "0")),
    "no permission": (
        ("ACL", "SETUSER", "default", "-@write"),
        ("ACL", "SETUSER", "default", "on", "nopass", "~*", "&*", "+@all"),
    ),
    "another password": (("CONFIG", "SET", "requirepass", "secret"), ("CONFIG", "SET", "requirepass", "")),
}


@pytest.mark.parametrize("kind", REDIS)
def test_while_redis_refuses_no_acknowledged_change_is_hidden_by_a_cache_nor_afterwards(load: Load, kind: str) -> None:
    """Both levels of both query instances hold the files from before, and the change is read at once."""
    fleet = load.fleet
    refuse, heal = REDIS[kind]
    redis = Redis.from_url(fleet.valkey.url())
    redis.ping()
    heard = redis.pubsub()
    files = [new_cached_file(load) for _ in range(6)]
    heard.subscribe("files:changed")
    redis.execute_command(*refuse)
    try:
        for number, file_id in enumerate(files):
            change_and_read(load, file_id, delete=number % 2 == 1)
        eventually(lambda: all(degraded(load, query, files[0]) == "redis" for query in QUERIES))
        seen = load.run(4)
        messages = drain(heard)
    finally:
        redis.execute_command(*heal)
    show(kind, seen)
    assert {(one.what, one.status) for one in seen} == set(WELL.items())
    assert all("redis" in one.degraded for one in seen if one.what in READS)
    assert messages <= len(files) + 32  # each event at most once or twice, and the uploads and updates of the load
    for _ in range(5):
        for number, file_id in enumerate(files):
            check_read(load, file_id, deleted=number % 2 == 1)
    eventually(lambda: all(degraded(load, query, files[0]) == "" for query in QUERIES))
    for number, file_id in enumerate(files):
        check_read(load, file_id, deleted=number % 2 == 1)
    eventually(lambda: is_well(load))
    redis.close()


def new_cached_file(load: Load) -> str:
    file_id = str(load.fleet.upload(load.token, retention="temporary").json()["file_id"])
    for _ in range(2):
        for query in QUERIES:
            assert read(load, query, file_id).json()["revision"] == 1
    return file_id


def change_and_read(load: Load, file_id: str, *, delete: bool) -> None:
    path = f"/api/files/{file_id}"
    if delete:
        assert load.fleet.call("DELETE", "ingester", path, load.token).status_code == 204
    else:
        changed = load.fleet.call("PATCH", "ingester", path, load.token, json={"filename": "after"})
        assert changed.status_code == 200
    check_read(load, file_id, deleted=delete)


def check_read(load: Load, file_id: str, *, deleted: bool) -> None:
    for query in QUERIES:
        answer = read(load, query, file_id)
        found = answer.status_code, answer.json().get("revision")
        assert found == ((404, None) if deleted else (200, 2)), f"{query}: {answer.headers} {answer.text}"


def read(load: Load, query: str, file_id: str) -> httpx.Response:
    return load.fleet.call("GET", query, f"/api/files/{file_id}", load.token)


def database_check_fails(load: Load, query: str) -> bool:
    """From then on every answer is marked, also one from memory."""
    report = httpx.get(f"{load.fleet.url(query)}/health/ready", timeout=30).json()
    return report["checks"]["database"]["ok"] is False


def degraded(load: Load, query: str, file_id: str) -> str:
    return str(read(load, query, file_id).headers.get("x-artstore-degraded", ""))


def drain(heard: PubSub) -> int:
    """How many messages came so far."""
    count = 0
    while message := heard.get_message(timeout=0.5):
        count += message["type"] == "message"
    return count


def test_the_breaker_of_a_deleted_element_leaves_the_metrics(load: Load) -> None:
    fleet = load.fleet
    made = fleet.new_account("SERVICE", client_id="se-09", permissions=["elements:report"])
    secret = fleet.folder / "keys" / "se-09.secret"
    secret.touch(mode=0o600)
    secret.write_text(made["client_secret"])
    fleet.start("se-09")
    fleet.ready("se-09")
    named = 'circuit_breaker_state{edge="se-09"}'

    def shown() -> bool:
        load.fleet.call("GET", "query", "/api/files/0197aaaa-0000-7000-8000-000000000009", load.token)
        return named in httpx.get(f"{fleet.url('query')}/metrics").text

    eventually(shown)
    fleet.stop("se-09")
    assert fleet.call("DELETE", "admin-1", "/api/storage-elements/se-09", load.token).status_code in (200, 204)
    eventually(lambda: named not in httpx.get(f"{fleet.url('query')}/metrics").text)
    assert fleet.call("DELETE", "admin-1", f"/api/service-accounts/{made['id']}", load.token).status_code == 204
