"""Old parts of the audit log are archived, sealed and pruned; the chains verify from the seal on, online and offline."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from app.audit import seals as seals_module


async def test_a_part_of_the_log_is_archived_sealed_and_pruned_and_the_rest_verifies(log: Any, eventually: Any) -> None:
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
    checked = log.run_offline("a1.ndjson", "a2.ndjson", "now.ndjson")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    actions = [
        one["action"] for one in (await log.admin.call("GET", "/api/audit", params={"limit": "1000"})).json()["items"]
    ]
    assert {"audit:seal", "audit:prune"} <= set(actions)
    gap = log.run_offline("a1.ndjson", "now.ndjson")
    assert (gap.returncode, "deleted: seals" in gap.stdout) == (1, True)


async def test_an_archive_that_was_changed_is_found_offline_and_not_sealed(log: Any) -> None:
    checkpoint = (await log.admin.call("GET", "/api/audit/checkpoints", params={"limit": "1"})).json()["items"][0]
    content = (await log.admin.call("GET", "/api/audit/archive", params={"until": str(checkpoint["number"])})).content
    (log.folder / "forged.ndjson").write_bytes(content.replace(b"grown-3", b"grown-x"))
    refused = log.run("archive", "forged.ndjson")
    assert (refused.returncode, "409" in refused.stderr) == (1, True)
    assert log.run_offline("forged.ndjson").returncode == 1
    assert (await log.admin.call("GET", "/api/audit/seals")).json()["items"] == []
    (log.folder / "forged.ndjson").unlink()
    assert log.run("archive", "a1.ndjson", "--before-days", "0").returncode == 0
    (log.folder / "other.ndjson").write_bytes(content)
    other = log.run("prune", "other.ndjson")
    assert other.returncode == (0 if content == (log.folder / "a1.ndjson").read_bytes() else 1)


async def test_every_step_can_be_repeated_and_a_prune_that_broke_off_goes_on(log: Any) -> None:
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


async def test_rows_above_the_seal_cannot_be_deleted(log: Any) -> None:
    for statement in ("DELETE FROM audit_events WHERE seq = 1", "DELETE FROM audit_checkpoints"):
        with pytest.raises(asyncpg.RaiseError, match="inserts only"):
            await log.admin.sql(statement)
    assert log.run("archive", "a1.ndjson", "--before-days", "0").returncode == 0
    head = (await log.admin.call("GET", "/api/audit/seals")).json()["items"][0]["checkpoint"]["heads"]["admin"]["seq"]
    with pytest.raises(asyncpg.RaiseError, match="inserts only"):
        await log.admin.sql("DELETE FROM audit_events WHERE chain = 'admin' AND seq >= $1", head)
    with pytest.raises(asyncpg.RaiseError, match="inserts only"):
        await log.admin.sql("DELETE FROM audit_seals")


async def test_a_forged_seal_hides_nothing(log: Any) -> None:
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


async def test_a_log_with_years_of_checkpoints_is_verified_in_pieces(log: Any) -> None:
    """The bodies are not checkpoints, so each is reported. They are read in pieces, and the service keeps answering."""
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


async def test_a_log_that_is_pruned_during_its_verification_has_no_findings(
    log: Any, own_admin: Any, eventually: Any
) -> None:
    paused = await own_admin(ARTSTORE_POINT="admin.audit_verify_begun:pause")
    verifying = asyncio.create_task(paused.call("GET", "/api/audit/verify"))
    await eventually(lambda: is_paused(paused.process.pid))
    before = await log.rows()
    await archive_and_prune(log)
    assert (await log.rows())[0] < before[0]
    paused.process.send_signal(signal.SIGCONT)
    verdict = (await verifying).json()
    assert (verdict["findings"], verdict["from_seal"]) == ([], 1)


async def test_a_change_in_the_log_is_found_also_when_a_seal_is_made_during_the_verification(
    log: Any, own_admin: Any, eventually: Any
) -> None:
    paused = await own_admin(ARTSTORE_POINT="admin.audit_verify_begun:pause")
    verifying = asyncio.create_task(paused.call("GET", "/api/audit/verify"))
    await eventually(lambda: is_paused(paused.process.pid))
    await archive_and_prune(log)
    await log.grow(eventually)
    await log.admin.sql("ALTER TABLE audit_events DISABLE TRIGGER ALL")
    await log.admin.sql(
        """UPDATE audit_events SET action = 'x' WHERE chain = 'admin'
        AND seq = (SELECT max(seq) - 3 FROM audit_events WHERE chain = 'admin')"""
    )
    paused.process.send_signal(signal.SIGCONT)
    verdict = (await verifying).json()
    assert ("changed", "admin") in {(one["what"], one["chain"]) for one in verdict["findings"]}


async def test_an_export_during_which_the_log_is_pruned_is_broken_off(
    log: Any, own_admin: Any, eventually: Any
) -> None:
    paused = await own_admin(ARTSTORE_POINT="admin.audit_export_begun:pause")
    exporting = asyncio.create_task(paused.call("GET", "/api/audit", params={"format": "ndjson"}))
    await eventually(lambda: is_paused(paused.process.pid))
    await archive_and_prune(log)
    paused.process.send_signal(signal.SIGCONT)
    with pytest.raises(httpx.RemoteProtocolError):
        await exporting
    await log.export("again.ndjson")
    assert log.run_offline("a1.ndjson", "again.ndjson").returncode == 0


async def archive_and_prune(log: Any) -> None:
    for arguments in (["archive", "a1.ndjson", "--before-days", "0"], ["prune", "a1.ndjson"]):
        done = await asyncio.to_thread(log.run, *arguments)
        assert done.returncode == 0, done.stderr


async def is_paused(pid: int) -> bool:
    """By SIGSTOP."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
