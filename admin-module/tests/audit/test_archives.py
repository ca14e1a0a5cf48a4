"""Old stretches of the audit log are archived, sealed and pruned; the chains verify from the seal on, online and offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from app.audit import seals as seals_module

ROOT = Path(__file__).resolve().parents[3]


def artstore(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT / 'cli'}{os.pathsep}{ROOT / 'shared'}"}
    program = [sys.executable, "-m", "artstore_cli", "audit", *arguments]
    return subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


class Log:
    """An admin with its own log, and the operator's commands."""

    def __init__(self, admin: Any, folder: Path) -> None:
        self.admin, self.folder, self._made = admin, folder, 0
        (folder / "client.json").write_text(json.dumps({"client_id": "boss", "client_secret": "b" * 43}))

    async def grow(self, eventually: Any, count: int = 8) -> None:
        """Events, and a checkpoint that has seen them."""
        for _ in range(count):
            self._made += 1
            made = await self.admin.call("POST", "/api/service-accounts", json={"client_id": f"grown-{self._made}"})
            assert made.status_code == 201
        last = (await self.admin.sql("SELECT max(seq) AS seq FROM audit_events WHERE chain = 'admin'"))[0]["seq"]

        async def seen() -> bool:
            found = (await self.admin.call("GET", "/api/audit/checkpoints", params={"limit": "1"})).json()["items"]
            return bool(found) and found[0]["heads"]["admin"]["seq"] >= last

        await eventually(seen)

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return artstore(
            self.folder, command, *arguments, "--url", self.admin.url, "--credentials", str(self.folder / "client.json")
        )

    async def export(self, name: str) -> Path:
        answer = await self.admin.call("GET", "/api/audit", params={"format": "ndjson"})
        (self.folder / name).write_bytes(answer.content)
        return self.folder / name

    async def verify(self) -> dict[str, Any]:
        verdict: dict[str, Any] = (await self.admin.call("GET", "/api/audit/verify")).json()
        return verdict

    async def rows(self) -> tuple[int, int]:
        query = "SELECT (SELECT count(*) FROM audit_events) AS events, (SELECT count(*) FROM audit_checkpoints) AS checkpoints"
        [row] = await self.admin.sql(query)
        return row["events"], row["checkpoints"]


@pytest.fixture
async def log(own_admin: Any, tmp_path: Path, eventually: Any) -> Log:
    made = Log(await own_admin(AUDIT_CHECKPOINT_EVERY_S="0.5"), tmp_path)
    await made.grow(eventually)
    return made


async def test_a_stretch_is_archived_sealed_and_pruned_and_the_rest_verifies(log: Log, eventually: Any) -> None:
    first = log.run("archive", "a1.ndjson", "--before-days", "0")
    assert first.returncode == 0, first.stderr
    assert (await log.verify())["from_seal"] == 1
    before = await log.rows()
    pruned = log.run("prune", "a1.ndjson")
    assert pruned.returncode == 0, pruned.stderr
    assert (await log.rows())[0] < before[0]
    await log.grow(eventually)
    verdict = await log.verify()
    assert (verdict["ok"], verdict["findings"]) == (True, [])
    assert log.run("archive", "a2.ndjson", "--before-days", "0").returncode == 0
    assert log.run("prune", "a2.ndjson").returncode == 0
    await log.grow(eventually)
    await log.export("now.ndjson")
    checked = artstore(log.folder, "verify", "a1.ndjson", "a2.ndjson", "now.ndjson")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    actions = [
        one["action"] for one in (await log.admin.call("GET", "/api/audit", params={"limit": "1000"})).json()["items"]
    ]
    assert {"audit.seal", "audit.prune"} <= set(actions)
    gap = artstore(log.folder, "verify", "a1.ndjson", "now.ndjson")
    assert (gap.returncode, "deleted: seals" in gap.stdout) == (1, True)


async def test_an_archive_that_was_changed_is_found_offline_and_not_sealed(log: Log) -> None:
    checkpoint = (await log.admin.call("GET", "/api/audit/checkpoints", params={"limit": "1"})).json()["items"][0]
    content = (await log.admin.call("GET", "/api/audit/archive", params={"until": str(checkpoint["number"])})).content
    (log.folder / "forged.ndjson").write_bytes(content.replace(b"grown-3", b"grown-x"))
    refused = log.run("archive", "forged.ndjson")
    assert (refused.returncode, "409" in refused.stderr) == (1, True)
    assert artstore(log.folder, "verify", "forged.ndjson").returncode == 1
    assert (await log.admin.call("GET", "/api/audit/seals")).json()["items"] == []
    (log.folder / "forged.ndjson").unlink()
    assert log.run("archive", "a1.ndjson", "--before-days", "0").returncode == 0
    (log.folder / "other.ndjson").write_bytes(content)
    other = log.run("prune", "other.ndjson")
    assert other.returncode == (0 if content == (log.folder / "a1.ndjson").read_bytes() else 1)


async def test_every_step_can_be_repeated_and_a_prune_that_broke_off_goes_on(log: Log) -> None:
    for _ in range(2):
        assert log.run("archive", "a1.ndjson", "--before-days", "0").returncode == 0
    assert len((await log.admin.call("GET", "/api/audit/seals")).json()["items"]) == 1
    connection = await asyncpg.connect(log.admin.database_url.replace("+asyncpg", ""))
    await connection.execute("DELETE FROM audit_events WHERE chain = 'admin' AND seq <= 2")  # as a batch would
    await connection.close()
    assert (await log.verify())["findings"] == []
    for _ in range(2):
        assert log.run("prune", "a1.ndjson").returncode == 0
    assert (await log.verify())["findings"] == []


async def test_what_no_seal_covers_cannot_be_deleted(log: Log) -> None:
    for statement in ("DELETE FROM audit_events WHERE seq = 1", "DELETE FROM audit_checkpoints"):
        with pytest.raises(asyncpg.RaiseError, match="inserts only"):
            await log.admin.sql(statement)
    assert log.run("archive", "a1.ndjson", "--before-days", "0").returncode == 0
    head = (await log.admin.call("GET", "/api/audit/seals")).json()["items"][0]["checkpoint"]["heads"]["admin"]["seq"]
    with pytest.raises(asyncpg.RaiseError, match="inserts only"):
        await log.admin.sql("DELETE FROM audit_events WHERE chain = 'admin' AND seq >= $1", head)
    with pytest.raises(asyncpg.RaiseError, match="inserts only"):
        await log.admin.sql("DELETE FROM audit_seals")


async def test_a_forged_seal_hides_nothing(log: Log) -> None:
    assert log.run("archive", "a1.ndjson", "--before-days", "0").returncode == 0
    await log.admin.sql(
        """INSERT INTO audit_seals
        SELECT 2, replace(replace(body, '"number":1,', '"number":2,'), 'grown', 'x') FROM audit_seals"""
    )
    found = {(one["what"], one["chain"]) for one in (await log.verify())["findings"]}
    assert ("changed", "seals") in found
    answer = await log.admin.call("POST", "/api/audit/prune", json={"seal": 2})
    assert answer.status_code == 404


async def test_only_an_admin_seals_and_prunes(admin: Any) -> None:
    for by, expected in (("watcher", 403), ("reader", 403)):
        for path, body in (("seals", {"checkpoint": 1, "sha256": "0" * 64}), ("prune", {"seal": 1})):
            answer: httpx.Response = await admin.call("POST", f"/api/audit/{path}", by=by, json=body)
            assert answer.status_code == expected


async def test_a_log_with_years_of_checkpoints_is_verified_in_pieces(log: Log) -> None:
    """The bodies are no checkpoints, and each is named; nothing is read at once and the service goes on answering."""
    await log.admin.sql(
        """INSERT INTO audit_checkpoints (number, body)
        SELECT n + 1000000, repeat('x', 1200) FROM generate_series(1, 20000) AS n"""
    )
    verdict = await log.verify()
    assert verdict["checkpoints"] >= 20_000
    assert {one["chain"] for one in verdict["findings"]} == {"checkpoints"}
    assert (await log.admin.call("GET", "/health/ready")).status_code == 200


def test_a_prune_request_is_bounded() -> None:
    assert seals_module.PRUNE_BATCH * seals_module.PRUNE_BATCHES <= 100_000
