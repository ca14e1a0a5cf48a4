"""Form fields that follow a large file are given to a copy of it: whatever dies, one file has them, or nothing stays."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator

import httpx
import pytest
from support.fleet import Fleet, eventually, running_fleet
from support.keyed import sql, start


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with running_fleet(settings={"SAGA_LEASE_S": "4"}) as started:
        yield started


def put_form(fleet: Fleet, at: str, tag: str, content: bytes) -> httpx.Response | None:
    part = "\r\n--b\r\nContent-Disposition: form-data; name="
    body = f'{part}"file"; filename="a.bin"\r\n\r\n'.encode() + content
    body += f'{part}"retention"\r\n\r\ntemporary{part}"tags"\r\n\r\n{tag}\r\n--b--\r\n'.encode()
    headers = {"content-type": "multipart/form-data; boundary=b"}
    token = fleet.token(admin="admin-2")
    try:
        return fleet.call("POST", at, "/api/files/upload", token, content=body, headers=headers)
    except httpx.TransportError:
        return None


def files_on_disks(fleet: Fleet) -> set[str]:
    roots = [fleet.folder / name / "files" for name in fleet.names if name.startswith("se-")]
    return {path.name for root in roots for path in root.rglob("*-*") if path.is_file() and ".attr" not in path.name}


@pytest.mark.parametrize(
    ("point", "stored"),
    [
        ("upload.transferred:kill", 0),
        ("upload.transferred:kill:2", 0),
        ("upload.committed:kill", 1),
        ("", 1),
    ],
)
def test_an_ingester_killed_beside_its_copy_leaves_one_file_or_nothing(fleet: Fleet, point: str, stored: int) -> None:
    before, tag, content = files_on_disks(fleet), secrets.token_hex(8), os.urandom(300_000)
    start(fleet, "ingester-2", point)
    answer = put_form(fleet, "ingester-2", tag, content)
    if point:
        assert answer is None
        assert fleet.processes.pop("ingester-2").wait(120) == -signal.SIGKILL
    else:
        assert answer is not None
        assert answer.status_code == 201, answer.text
        fleet.stop("ingester-2")
    eventually(lambda: len(files_on_disks(fleet) - before) == stored or None)
    eventually(lambda: not sql(fleet, "SELECT 1 FROM sagas WHERE due_at IS NOT NULL") or None)
    rows = sql(fleet, "SELECT file_id::text, state, storage_element_id FROM files WHERE tags @> $1", [tag])
    assert [(row["state"], row["storage_element_id"]) for row in rows] == [("available", "se-01")] * stored
    assert {row["file_id"] for row in rows} == files_on_disks(fleet) - before
