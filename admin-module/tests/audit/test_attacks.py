"""Someone is superuser in the database and rewrites the audit log: whatever is done is found and named."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from redis.asyncio import Redis

from artstore.testing.services import PostgresServer, ValkeyServer

ROOT = Path(__file__).resolve().parents[3]
COPIED = 'service, action, user_id, resource, result, metadata, signature, hash, prev, "timestamp"'
HIDE = "UPDATE audit_events SET user_id = 'nobody' WHERE chain = 'admin' AND seq = 3"
DELETE = "DELETE FROM audit_events WHERE chain = 'admin' AND seq = 3"
RENUMBER = "UPDATE audit_events SET seq = -seq WHERE chain = 'admin' AND seq >= 4; UPDATE audit_events SET seq = {} WHERE seq < 0"
FORGE = f"""INSERT INTO audit_events (chain, seq, {COPIED}) SELECT 'admin', {{}}, service, action, 'mallory', resource, result,
    metadata, repeat('A', 86) || '==', hash, prev, "timestamp" FROM audit_events WHERE chain = 'admin' AND seq = 2"""
SWAP = """UPDATE audit_events SET seq = CASE seq WHEN 3 THEN -5 ELSE -3 END WHERE chain = 'admin' AND seq IN (3, 5);
    UPDATE audit_events SET seq = -seq WHERE seq < 0"""
CUT = "DELETE FROM audit_events WHERE chain = 'admin' AND seq > 4"
CUT_CHECKPOINTS = f"{CUT}; DELETE FROM audit_checkpoints WHERE number > 1"
REPLAY = f"""INSERT INTO audit_events (chain, seq, {COPIED}) SELECT 'admin', (SELECT max(seq) + 1 FROM audit_events
    WHERE chain = 'admin'), {COPIED} FROM audit_events WHERE chain LIKE 'admin:%' AND seq = 2"""
GONE = "DELETE FROM audit_events WHERE chain LIKE 'admin:%'; DELETE FROM audit_keys WHERE chain LIKE 'admin:%'"
OTHER_KEY = "UPDATE audit_keys SET public_key = decode(repeat('d7', 32), 'hex') WHERE chain LIKE 'admin:%'"
ADMIN_KEY = "UPDATE audit_keys SET public_key = decode(repeat('d7', 32), 'hex') WHERE chain = 'admin'"
PROMISE = "UPDATE audit_checkpoints SET body = replace(body, '\"seq\":', '\"seq\":1') WHERE number = 2"
NO_KEY = "UPDATE audit_keys SET public_key = 'x' WHERE chain LIKE 'admin:%'"
NO_MOMENT = HIDE.replace("user_id = 'nobody'", "\"timestamp\" = '-infinity'")
NO_CHECKPOINT = "UPDATE audit_checkpoints SET body = '{}' WHERE number = 2"

PUT_BACK = "; ".join(
    f"DELETE FROM {table}; INSERT INTO {table} {columns} TABLE honest_{table}"
    for table, columns in {
        "audit_events": "OVERRIDING SYSTEM VALUE",
        "audit_checkpoints": "",
        "audit_keys": "",
    }.items()
)


@pytest.fixture(scope="module")
async def client(
    postgres: PostgresServer,
    valkey: ValkeyServer,
    tmp_path_factory: Any,
    start_for_module: Any,
    eventually: Any,
    given_environment: Any,
) -> AsyncIterator[tuple[httpx.AsyncClient, asyncpg.Connection]]:
    """An admin with two chains and two checkpoints over them, and a superuser's connection to its database."""
    name = await postgres.new_database()
    folder = tmp_path_factory.mktemp("attacked")
    given = given_environment(postgres.url(name), valkey.url(5), folder, AUDIT_CHECKPOINT_EVERY_S="3600")
    url, _ = start_for_module({**given, "AUDIT_FOLDER": str(folder / "audit")})
    database = await asyncpg.connect(postgres.url(name).replace("+asyncpg", ""))
    async with httpx.AsyncClient(base_url=url, timeout=120) as opened:

        async def log_in() -> bool:
            try:
                answer = await opened.post("/api/auth/token", json={"client_id": "boss", "client_secret": "b" * 43})
            except httpx.TransportError:
                return False
            if answer.status_code == 200:
                opened.headers["authorization"] = f"Bearer {answer.json()['access_token']}"
            return answer.status_code == 200

        await eventually(log_in)
        login = await opened.post("/api/auth/token", json={"client_id": "reader", "client_secret": "r" * 43})
        reader = {"authorization": f"Bearer {login.json()['access_token']}"}
        for number in range(6):
            assert (
                await opened.post("/api/service-accounts", json={"client_id": f"honest-{number}"})
            ).status_code == 201
            assert (await opened.get("/api/audit", headers=reader)).status_code == 403
        await eventually(lambda: database.fetchval("SELECT count(*) >= 6 FROM audit_events WHERE chain LIKE 'admin:%'"))
        _, other = start_for_module({**given, "AUDIT_CHECKPOINT_EVERY_S": "0.5"})
        await eventually(lambda: database.fetchval("SELECT count(*) >= 2 FROM audit_checkpoints"))
        other.terminate()
        other.wait(120)
        for table in ("audit_events", "audit_checkpoints", "audit_keys"):
            await database.execute(f"CREATE TABLE honest_{table} AS TABLE {table}")
        yield opened, database
    await database.close()


@pytest.fixture
async def attacked(client: Any) -> AsyncIterator[Callable[[str], Any]]:
    """Run the attack with the trigger disabled, and restore everything afterwards."""
    _, database = client

    async def attack(statements: str) -> None:
        await database.execute("ALTER TABLE audit_events DROP CONSTRAINT IF EXISTS audit_events_chain_seq")
        await database.execute(f"SET session_replication_role = replica; {statements}")

    yield attack
    await database.execute(PUT_BACK)


async def verified(client: Any) -> list[tuple[str, str, int]]:
    answer = (await client[0].get("/api/audit/verify")).json()
    assert answer["ok"] is (not answer["findings"])
    page = (await client[0].get("/metrics")).text.splitlines()
    assert f"audit_verification_findings {float(len(answer['findings']))}" in page
    return [(one["what"], one["chain"].partition(":")[0], one["seq"]) for one in answer["findings"]]


async def test_an_honest_log_verifies(client: Any) -> None:
    answer = (await client[0].get("/api/audit/verify")).json()
    assert (answer["ok"], answer["findings"]) == (True, [])
    assert answer["events"] >= 12
    assert answer["checkpoints"] >= 2
    assert len(answer["chains"]) >= 2


async def test_a_superuser_can_change_the_log_only_without_its_trigger(client: Any) -> None:
    with pytest.raises(asyncpg.RaiseError, match="inserts only"):
        await client[1].execute(f"SET session_replication_role = origin; {HIDE}")
    with pytest.raises(asyncpg.RaiseError, match="inserts only"):
        await client[1].execute("SET session_replication_role = origin; DELETE FROM audit_checkpoints")


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        pytest.param(HIDE, ("changed", "admin", 3), id="change"),
        pytest.param(DELETE, ("deleted", "admin", 3), id="delete"),
        pytest.param(f"{DELETE}; {RENUMBER.format('-seq - 1')}", ("changed", "admin", 3), id="delete and close the gap"),
        pytest.param(FORGE.format(1000), ("changed", "admin", 1000), id="insert at the end"),
        pytest.param(f"{RENUMBER.format('-seq + 1')}; {FORGE.format(4)}", ("changed", "admin", 5), id="insert"),
        pytest.param(FORGE.format(3), ("inserted", "admin", 3), id="insert beside"),
        pytest.param(SWAP, ("changed", "admin", 3), id="reorder"),
        pytest.param(CUT, ("cut_off", "admin", 5), id="cut the end"),
        pytest.param(CUT_CHECKPOINTS, ("cut_off", "checkpoints", 2), id="cut the end and the checkpoints"),
        pytest.param(REPLAY, ("changed", "admin", 0), id="replay of another chain"),
        pytest.param(GONE, ("cut_off", "admin", 1), id="a whole chain taken away"),
        pytest.param(OTHER_KEY, ("wrong_key", "admin", 0), id="another key for a chain"),
        pytest.param(ADMIN_KEY, ("wrong_key", "admin", 0), id="another key for admin"),
        pytest.param(PROMISE, ("changed", "checkpoints", 2), id="a checkpoint changed"),
        pytest.param(NO_KEY, ("wrong_key", "admin", 0), id="no key at all for a chain"),
        pytest.param(NO_MOMENT, ("changed", "admin", 3), id="a moment that is none"),
        pytest.param(NO_CHECKPOINT.format("x"), ("changed", "checkpoints", 2), id="rubbish for a checkpoint"),
        pytest.param(NO_CHECKPOINT.format('{"number": 2}'), ("changed", "checkpoints", 2), id="half a checkpoint"),
    ],
)  # fmt: skip
async def test_an_attack_is_found_and_named(
    client: Any, attacked: Any, attack: str, expected: tuple[str, str, int]
) -> None:
    await attacked(attack)
    what, chain, seq = expected
    found = await verified(client)
    assert any(one[:2] == (what, chain) and seq in (0, one[2]) for one in found), found


async def test_a_check_goes_on_from_the_checkpoint_the_last_one_ended_with(client: Any, attacked: Any) -> None:
    async def verify(number: int) -> httpx.Response:
        answer: httpx.Response = await client[0].get("/api/audit/verify", params={"from_checkpoint": number})
        return answer

    whole, part = (await client[0].get("/api/audit/verify")).json(), (await verify(1)).json()
    assert (part["ok"], part["from_checkpoint"]) == (True, 1)
    assert part["last_checkpoint"] == whole["last_checkpoint"]
    assert 6 <= part["events"] < whole["events"]
    assert (await verify(whole["last_checkpoint"] + 1)).status_code == 404
    last = await client[1].fetchval("SELECT max(seq) FROM audit_events WHERE chain = 'admin'")
    for attack, what in {
        f"DELETE FROM audit_events WHERE chain = 'admin' AND seq = {last - 2}": "deleted",
        f"DELETE FROM audit_events WHERE chain = 'admin' AND seq >= {last - 2}": "cut_off",
        f"UPDATE audit_events SET user_id = 'nobody' WHERE chain = 'admin' AND seq = {last - 2}": "changed",
        "UPDATE audit_checkpoints SET body = replace(body, '\"seq\":', '\"seq\":1') WHERE number = 1": "changed",
        "DELETE FROM audit_events WHERE chain LIKE 'admin:%' AND seq = 1": "deleted",
    }.items():
        await attacked(attack)
        assert what in {one["what"] for one in (await verify(1)).json()["findings"]}, attack
        await attacked(PUT_BACK)


async def test_the_export_is_checked_offline(client: Any, attacked: Any, tmp_path: Path) -> None:
    exported = await client[0].get("/api/audit", headers={"accept": "application/x-ndjson"})
    assert exported.headers["content-type"].startswith("application/x-ndjson")
    honest = check_offline(tmp_path, exported.content)
    assert honest.returncode == 0, honest.stdout + honest.stderr
    lines = exported.content.splitlines(keepends=True)
    forged = [line.replace(b'"honest-3"', b'"honest-x"') for line in lines]
    assert "changed: admin" in check_offline(tmp_path, b"".join(forged)).stdout
    assert "cut_off" in check_offline(tmp_path, b"".join(lines[:-2])).stdout
    assert "deleted: admin" in check_offline(tmp_path, b"".join(lines[:-9] + lines[-8:])).stdout
    assert check_offline(tmp_path, exported.content, "--admin-key", "0" * 16).returncode == 1
    assert check_offline(tmp_path, b"no export").returncode == 2
    await attacked(CUT)
    cut = (await client[0].get("/api/audit", params={"format": "ndjson"})).content
    assert "cut_off: admin 5" in check_offline(tmp_path, cut).stdout


async def test_a_part_of_the_log_is_exported_and_checked_for_what_it_says(client: Any, tmp_path: Path) -> None:
    params = {"format": "ndjson", "action": "account:create", "since": "2020-01-01T00:00:00Z"}
    part = (await client[0].get("/api/audit", params=params)).content
    checked = check_offline(tmp_path, part)
    assert (checked.returncode, "of a part of the log" in checked.stdout) == (0, True)
    assert check_offline(tmp_path, part.replace(b'"honest-3"', b'"honest-x"')).returncode == 1


async def test_checkpoints_are_listed_newest_first(client: Any) -> None:
    first = (await client[0].get("/api/audit/checkpoints", params={"limit": 1})).json()
    older = (await client[0].get("/api/audit/checkpoints", params={"cursor": first["next_cursor"]})).json()
    assert [one["number"] for one in [*first["items"], *older["items"]]][-2:] == [2, 1]
    assert {chain.partition(":")[0] for chain in first["items"][0]["heads"]} == {"admin"}


async def test_events_cut_off_between_checkpoints_are_detected(
    client: Any, attacked: Any, eventually: Any, valkey: ValkeyServer
) -> None:
    """The last test here: what was seen once is missed for ever."""
    opened, database = client
    assert (await opened.post("/api/service-accounts", json={"client_id": "unseen"})).status_code == 201
    last = await database.fetchval("SELECT max(seq) FROM audit_events WHERE chain = 'admin'")

    async def cut() -> list[float]:
        page = (await opened.get("/metrics")).text
        return [float(line.split()[1]) for line in page.splitlines() if line.startswith("audit_chains_cut ")]

    async def seen() -> bool:
        (key,) = await redis.keys("artstore:audit:heads:*")
        return int(await redis.hget(key, "admin") or 0) >= int(last)

    async with Redis.from_url(valkey.url(5), decode_responses=True) as redis:
        await eventually(seen)
    await attacked(f"DELETE FROM audit_events WHERE chain = 'admin' AND seq = {last}")
    assert ("cut_off", "admin", last) in await verified(client)

    async def told() -> bool:
        return await cut() == [1.0]

    await eventually(told)


def check_offline(folder: Path, content: bytes, *options: str) -> subprocess.CompletedProcess[str]:
    """The user's command, in a process that knows no service."""
    (folder / "audit.ndjson").write_bytes(content)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT / 'cli'}{os.pathsep}{ROOT / 'shared'}"}
    arguments = [sys.executable, "-m", "artstore_cli", "audit", "verify", "audit.ndjson", *options]
    return subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
