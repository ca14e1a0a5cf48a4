"""Writes archives of the audit log and prunes the log, through a running admin. Each step can be repeated after a failure."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from .errors import CommandError

TIMEOUT_S = 3600
"""Admin verifies an archive before it seals it, which takes 0.1 ms per event."""
COPY_BYTES = 1 << 20


class AdminClient:
    """Calls admin's API with one ADMIN account."""

    def __init__(self, url: str, credentials: Path) -> None:
        self._url, self._credentials, self._token = url.rstrip("/"), credentials, ""

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        with self.open(method, path, body) as answer:
            return json.load(answer)

    def open(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Raises CommandError with the detail of admin's answer."""
        if not self._token and path != "/api/auth/token":
            try:
                client = json.loads(self._credentials.read_text())
            except (OSError, ValueError) as error:
                raise CommandError(f"{self._credentials} cannot be read: {error}") from error
            self._token = self.call("POST", "/api/auth/token", client)["access_token"]
        request = urllib.request.Request(self._url + path, method=method)  # noqa: S310  (the operator's own URL)
        request.add_header("Content-Type", "application/json")
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        data = None if body is None else json.dumps(body).encode()
        try:
            return urllib.request.urlopen(request, data, timeout=TIMEOUT_S)  # noqa: S310
        except urllib.error.HTTPError as error:
            try:
                detail = json.load(error).get("detail")
            except ValueError:
                detail = error.reason
            raise CommandError(f"{method} {path}: {error.code}: {detail}") from error
        except (OSError, http.client.HTTPException) as error:
            raise CommandError(f"{self._url} cannot be reached: {error}") from error


def write_archive(admin: AdminClient, file: Path, before_days: int) -> dict[str, Any]:
    """Write the file atomically, then request the seal. Returns `seal`, `events`, `checkpoint` and `file`."""
    if file.exists():
        number = int(json.loads(_first_line(file))["until"])
    else:
        number = _find_checkpoint(admin, datetime.now(UTC) - timedelta(days=before_days))
        partial = file.with_name(file.name + ".part")
        with admin.open("GET", f"/api/audit/archive?until={number}") as answer, partial.open("wb") as out:
            shutil.copyfileobj(answer, out, COPY_BYTES)
            out.flush()
            os.fsync(out.fileno())
        partial.replace(file)
    seal = admin.call("POST", "/api/audit/seals", {"checkpoint": number, "sha256": _sha256(file)})
    events = seal["archive"]["events"]
    return {"seal": seal["number"], "events": events, "checkpoint": number, "file": str(file)}


def prune_sealed(admin: AdminClient, file: Path) -> dict[str, Any]:
    """Deletes nothing unless `file` is the sealed archive. Returns `seal`, `deleted` and `file`."""
    seals = admin.call("GET", "/api/audit/seals?limit=1")["items"]
    if not seals or seals[0]["archive"]["sha256"] != _sha256(file):
        raise CommandError(f"{file} is not the archive of the newest seal; nothing was deleted")
    deleted, left = 0, True
    while left:
        answer = admin.call("POST", "/api/audit/prune", {"seal": seals[0]["number"]})
        deleted, left = deleted + answer["deleted"], answer["left"]
    return {"seal": seals[0]["number"], "deleted": deleted, "file": str(file)}


def _find_checkpoint(admin: AdminClient, moment: datetime) -> int:
    """The newest checkpoint not younger than `moment`, found by binary search."""
    newest = admin.call("GET", "/api/audit/checkpoints?limit=1")["items"]
    high = int(newest[0]["number"]) if newest else 0
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        found = admin.call("GET", f"/api/audit/checkpoints?limit=1&cursor={middle + 1}")["items"]
        if found and datetime.fromisoformat(found[0]["timestamp"]) > moment:
            high = middle - 1
        else:
            low = middle
    if low == 0:
        raise CommandError("no checkpoint is that old; nothing was archived")
    return low


def _first_line(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.readline()


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}") from error
