"""The data folder and schema of an earlier commit of this repository are taken over by the present one.

The earlier commit is the last one without the newest migration: whatever the migrations are, the upgrade makes one.
The `./artstore up` of both commits runs with the packages of the present one.
"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.system import ROOT, System, free_port_base

MIGRATIONS = "admin-module/migrations/versions"
NOT_NEEDED = (":!docs", ":!tests", ":!*/tests")
"""Paths that `./artstore up` does not read."""
COMMAND_TIMEOUT_S = 240
TUS = {"tus-resumable": "1.0.0", "content-type": "application/offset+octet-stream"}
HALF = os.urandom(100_000)


def git(*arguments: str) -> str | None:
    """None: no git, no repository, or a commit that is not there."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=60)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def find_commit() -> str | None:
    """The parent of the commit that added the newest migration."""
    newest = max(path.name for path in (ROOT / MIGRATIONS).glob("[0-9]*.py"))
    added = git("log", "--diff-filter=A", "--format=%H", "--", f"{MIGRATIONS}/{newest}")
    return git("rev-parse", "--verify", "--quiet", f"{added.splitlines()[-1]}^") if added else None


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the earlier commit."""
    commit = find_commit()
    if commit is None:
        pytest.skip("the history before the newest migration is not there: clone without --depth")
    root, packed = tmp_path_factory.mktemp("earlier"), tmp_path_factory.mktemp("packed") / "earlier.tar"
    assert git("archive", "--output", str(packed), commit, "--", ".", *NOT_NEEDED) is not None
    with tarfile.open(packed) as archive:
        archive.extractall(root, filter="data")
    return root


def artstore(root: Path, command: str, data: Path, *options: str) -> None:
    path = os.pathsep.join(str(root / part) for part in ("cli", "clients/python", "shared"))
    done = subprocess.run(
        [sys.executable, "-m", "artstore_cli", command, "--data", str(data), *options],
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        cwd=root,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def running(root: Path, data: Path, base: int) -> Iterator[httpx.Client]:
    """Yields a client of the gateway with an ADMIN token."""
    artstore(root, "up", data, "--port-base", str(base), "--detach")
    system = System(base, data / "keys", data)
    try:
        with system.client() as client:
            client.base_url = httpx.URL(system.address)
            yield client
    finally:
        artstore(root, "down", data)


@dataclass
class Story:
    """The things that a user stored before the upgrade."""

    contents: dict[str, bytes] = field(default_factory=dict)
    deleted: str = ""
    changed: str = ""
    upload: str = ""
    account: dict[str, str] = field(default_factory=dict)
    audited: int = 0


def ask(client: httpx.Client, method: str, path: str, expected: int, **options: Any) -> httpx.Response:
    answer = client.request(method, path, **options)
    assert answer.status_code == expected, answer.text
    return answer


def store(client: httpx.Client, content: bytes, retention: str) -> str:
    path = f"/api/files/upload?filename=before.bin&retention={retention}&tags=%5B%22upgraded%22%5D"
    headers = {"content-type": "application/octet-stream"}
    return str(ask(client, "POST", path, 201, content=content, headers=headers).json()["file_id"])


def audit(client: httpx.Client) -> int:
    return len(ask(client, "GET", "/api/audit?limit=1000", 200).json()["items"])


def live_before(client: httpx.Client) -> Story:
    story = Story()
    for retention in ("permanent", "temporary", "temporary", "temporary"):
        for content in (os.urandom(1000), os.urandom(1_000_000)):
            story.contents[store(client, content, retention)] = content
    *_, story.changed, story.deleted = story.contents
    ask(client, "PATCH", f"/api/files/{story.changed}", 200, json={"filename": "renamed.bin"})
    ask(client, "DELETE", f"/api/files/{story.deleted}", 204)
    del story.contents[story.deleted]
    account = ask(client, "POST", "/api/service-accounts", 201, json={"client_id": "before", "role": "USER"}).json()
    story.account = {name: account[name] for name in ("client_id", "client_secret")}
    name = base64.b64encode(b"unfinished.bin").decode()
    headers = {**TUS, "upload-length": str(2 * len(HALF)), "upload-metadata": f"filename {name}"}
    story.upload = ask(client, "POST", "/api/uploads", 201, headers=headers, content=HALF).headers["location"]
    ask(client, "POST", "/api/storage-elements/se-03/mode", 200, json={"mode": "ro"})
    story.audited = audit(client)
    return story


def require_kept(client: httpx.Client, story: Story) -> None:
    for file_id, content in story.contents.items():
        assert ask(client, "GET", f"/api/files/{file_id}/content", 200).content == content
    assert ask(client, "GET", f"/api/files/{story.changed}", 200).json()["filename"] == "renamed.bin"
    ask(client, "GET", f"/api/files/{story.deleted}", 404)
    found = ask(client, "GET", "/api/files?tag=upgraded&count=true", 200).json()
    assert {one["file_id"] for one in found["items"]} == set(story.contents)
    ask(client, "POST", "/api/auth/token", 200, json=story.account)
    modes = {one["id"]: one["mode"] for one in ask(client, "GET", "/api/storage-elements", 200).json()["items"]}
    assert modes == {"se-01": "edit", "se-02": "rw", "se-03": "ro"}
    assert audit(client) >= story.audited
    assert ask(client, "GET", "/api/audit/verify", 200).json()["ok"] is True


def test_an_upgrade_keeps_everything_and_goes_on(earlier: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o711)
    data, base = tmp_path / "data", free_port_base()
    with running(earlier, data, base) as client:
        story = live_before(client)
    with running(ROOT, data, base) as client:
        require_kept(client, story)
        done = ask(client, "PATCH", story.upload, 204, headers={**TUS, "upload-offset": str(len(HALF))}, content=HALF)
        story.contents[done.headers["x-artstore-file-id"]] = HALF + HALF
        file_id = done.headers["x-artstore-file-id"]
        assert ask(client, "GET", f"/api/files/{file_id}/content", 200).content == HALF + HALF
        store(client, b"after", "permanent")
