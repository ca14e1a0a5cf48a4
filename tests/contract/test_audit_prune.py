"""The operator prunes the audit log of a running system, whose admin has its own database login only."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
from support.fleet import eventually
from support.system import System, run


def audit(system: System, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    credentials = str(system.keys / "admin-client.json")
    return run("audit", command, *arguments, "--url", system.url("admin"), "--credentials", credentials, check=False)


def verify(system: System, client: httpx.Client) -> dict[str, Any]:
    answer = client.get(f"{system.url('admin')}/api/audit/verify")
    assert answer.status_code == 200, answer.text
    verdict: dict[str, Any] = answer.json()
    return verdict


def make_events(system: System, client: httpx.Client) -> None:
    """In several chains: admin's, the ingester's, query's; then a checkpoint that has seen them."""
    for _ in range(3):
        system.new_account("READONLY")
        assert client.delete(f"{system.url('ingester')}/api/files/{'0' * 8}").status_code in (400, 404, 422)
    reader = system.new_account("AUDITOR")
    token = system.token(reader["client_id"], reader["client_secret"])
    with system.client(token) as stranger:
        assert stranger.delete(f"{system.url('ingester')}/api/files/x").status_code == 403
        assert stranger.get(f"{system.url('query')}/api/files").status_code == 403
    newest = client.get(f"{system.url('admin')}/api/audit", params={"limit": "1", "chain": "admin"}).json()["items"][0]

    def seen() -> bool:
        url = f"{system.url('admin')}/api/audit/checkpoints"
        found = client.get(url, params={"limit": "1"}).json()["items"]
        return bool(found) and len(found[0]["heads"]) > 2 and found[0]["heads"]["admin"]["seq"] >= newest["seq"]

    eventually(seen, 180)


def test_the_audit_log_of_a_running_system_is_archived_sealed_and_pruned(
    system: System, client: httpx.Client, tmp_path: Path
) -> None:
    archive, export = str(tmp_path / "archive.ndjson"), tmp_path / "now.ndjson"
    make_events(system, client)
    archived = audit(system, "archive", archive, "--before-days", "0", "--json")
    assert archived.returncode == 0, archived.stderr
    told = json.loads(archived.stdout)
    assert (told["seal"], told["file"], told["events"] > 0, told["checkpoint"] > 0) == (1, archive, True, True)
    assert run("audit", "verify", archive, check=False).returncode == 0
    assert verify(system, client)["findings"] == []
    pruned = audit(system, "prune", archive)
    assert (pruned.returncode, pruned.stdout.startswith("0 rows")) == (0, False), pruned.stdout + pruned.stderr
    verdict = verify(system, client)
    assert (verdict["findings"], verdict["from_seal"]) == ([], 1)
    again = audit(system, "prune", archive, "--json")
    assert (again.returncode, json.loads(again.stdout)) == (0, {"seal": 1, "deleted": 0, "file": archive}), again.stderr
    wrong = audit(system, "prune", str(tmp_path / "none"), "--json")
    assert (wrong.returncode, json.loads(wrong.stderr)["error"]["code"]) == (1, "failed")
    make_events(system, client)
    assert verify(system, client)["findings"] == []
    answer = client.get(f"{system.url('admin')}/api/audit", params={"format": "ndjson"})
    export.write_bytes(answer.content)
    checked = run("audit", "verify", archive, str(export), check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    [event] = client.get(f"{system.url('admin')}/api/audit", params={"action": "audit:prune"}).json()["items"]
    assert event["metadata"]["events"] > 0
    assert json.loads(Path(archive).read_text().splitlines()[0])["type"] == "archive"
