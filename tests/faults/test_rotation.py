"""The commands of docs/operations/rotate-secrets.md do what the page says, on a system with files and accounts."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from support.fleet import eventually
from support.system import ROOT, System, own_system

from artstore.local import postgres

COMMANDS = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "operations" / "rotate-secrets.md").read_text(), re.DOTALL)


def follow(system: System, commands: str) -> None:
    environment = {
        **os.environ,
        "DATA": str(system.data),
        "UP": f"--data {system.data} --port-base {system.base} --detach",
        "PATH": f"{postgres.load_program(None) / 'bin'}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


def secrets_of(keys: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in keys.iterdir()}


def test_every_rotation_of_the_page_leaves_a_system_that_works(tmp_path: Path) -> None:
    accounts, owner, logins, encryption = COMMANDS
    with own_system() as system:
        account = system.new_account("USER")
        before = secrets_of(system.keys)
        follow(system, accounts + owner + logins + encryption)
        after = secrets_of(system.keys)
        changed = {name for name in before if before[name] != after.get(name)}
        assert {"se-01.secret", "query.secret", "postgres-password", "database-url", "redis-password"} <= changed
        assert {"database-url-admin", "database-roles.json", "key-encryption-key"} <= changed
        assert after.keys() == before.keys()
        assert system.token(account["client_id"], account["client_secret"])
        with system.client() as client:
            put = client.post(f"{system.url('ingester')}/api/files/upload", params={"filename": "a"}, content=b"a",
                              headers={"content-type": "text/plain"})  # fmt: skip
            assert put.status_code == 201
            path = f"{system.url('query')}/api/files/{put.json()['file_id']}"
            eventually(lambda: client.get(path).status_code == 200)
            assert client.get(f"{system.url('admin')}/api/audit/verify").json()["ok"] is True
            events = client.get(f"{system.url('admin')}/api/audit", params={"action": "key:rotate"}).json()["items"]
            assert any(event["metadata"].get("kind") == "encryption" for event in events)
            rotated = client.post(f"{system.url('admin')}/api/auth/keys/rotate", params={"kind": "links"})
            assert rotated.status_code == 200
