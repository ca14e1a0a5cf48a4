"""With AUDIT_READS each read is in the audit log, on disk, before it is answered."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.rig import Rig, running

from artstore.testing.services import PostgresServer, ValkeyServer
from artstore.testing.tokens import Signer

LARGE = b"x" * 100_000


@pytest.fixture
async def audited(postgres: PostgresServer, valkey: ValkeyServer, signer: Signer, tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(postgres, valkey, signer, audit_reads=True, audit_folder=tmp_path) as started:
        yield started


def recorded(folder: Path) -> list[dict[str, Any]]:
    """The events that a process would ship after a crash."""
    lines = (folder / "writer-0" / "events").read_bytes().splitlines()
    return [event for event in map(orjson.loads, lines) if event["action"] == "file:read"]


async def test_each_read_is_on_disk_before_it_is_answered(audited: Rig, tmp_path: Path) -> None:
    file = audited.first.put(LARGE)
    path = f"/api/files/{file.file_id}"
    parts: list[str] = []
    for method, of, headers, status in (
        ("GET", path, {}, 200),
        ("GET", path, {"if-none-match": '"1"'}, 304),
        ("GET", f"{path}/content", {}, 200),
        ("GET", f"{path}/content", {"range": "bytes=0-9"}, 206),
        ("HEAD", f"{path}/content", {}, 200),
    ):
        async with audited.client.stream(method, of, headers=headers) as answer:
            assert answer.status_code == status
            events = recorded(tmp_path)
            assert len(events) == len(parts) + 1
            assert events[-1]["metadata"]["request_id"] == answer.headers["x-request-id"]
            parts.append(events[-1]["metadata"]["part"])
    assert parts == ["attributes", "attributes", "content", "content", "attributes"]
    event = recorded(tmp_path)[2]
    assert (event["service"], event["resource"], event["result"]) == ("query", file.file_id, "success")
    assert event["user_id"] != "-"
    wanted = {"file_size": len(LARGE), "storage_element": "se-01", "revision": 1, "by_link": False}
    assert event["metadata"].items() >= {**wanted, "address": "127.0.0.1"}.items()


async def test_a_read_that_fails_is_not_recorded(audited: Rig, tmp_path: Path) -> None:
    assert (await audited.get("/api/files/0199e3a0-0000-7000-8000-000000000000")).status_code == 404
    file = audited.first.put(LARGE)
    assert (await audited.get(f"/api/files/{file.file_id}/content", range="bytes=200000-")).status_code == 416
    assert recorded(tmp_path) == []


@pytest.mark.parametrize("content", [b"small", LARGE])
async def test_a_read_that_cannot_be_recorded_is_refused(audited: Rig, content: bytes) -> None:
    file = audited.first.put(content)
    spool = audited.context.reads._writer._spool
    os.close(spool._file)  # the disk of the audit log fails
    spool._file = -1
    for path in ("", "/content", "/content"):
        answer = await audited.get(f"/api/files/{file.file_id}{path}")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


async def test_reads_are_not_recorded_unless_it_is_asked_for(
    postgres: PostgresServer, valkey: ValkeyServer, signer: Signer, tmp_path: Path
) -> None:
    async with running(postgres, valkey, signer, audit_folder=tmp_path) as rig:
        file = rig.first.put(LARGE)
        assert (await rig.get(f"/api/files/{file.file_id}/content")).status_code == 200
    assert recorded(tmp_path) == []
