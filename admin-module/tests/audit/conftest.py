"""The audit log of an admin of the test's own, with the operator's commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
        """Add events, and wait for a checkpoint that covers them."""
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

    def run_offline(self, *files: str) -> subprocess.CompletedProcess[str]:
        return artstore(self.folder, "verify", *files)

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
def new_log(tmp_path: Path) -> Callable[[Any], Log]:
    return lambda admin: Log(admin, tmp_path)


@pytest.fixture
async def log(own_admin: Any, tmp_path: Path, eventually: Any) -> Log:
    made = Log(await own_admin(AUDIT_CHECKPOINT_EVERY_S="0.5"), tmp_path)
    await made.grow(eventually)
    return made
