"""Files under ids that clients made: whatever dies while two clients put one, it is stored once and whole, or not at all."""

from __future__ import annotations

import secrets
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.fleet import Fleet, eventually, running_fleet
from support.keyed import sql, start

from artstore.clock import uuid7

LARGE = 300_000
SETTINGS = {"SAGA_LEASE_S": "4"}


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with running_fleet(settings=SETTINGS) as started:
        start(started, "ingester-2", "")
        yield started


class Put(threading.Thread):
    """Sent beside the test; `answer` stays None when the connection ends without one."""

    def __init__(self, fleet: Fleet, at: str, file_id: str, size_bytes: int) -> None:
        super().__init__(daemon=True)
        self.fleet, self.at, self.file_id = fleet, at, file_id
        self.content = secrets.token_bytes(size_bytes)
        self.answer: httpx.Response | None = None
        self._token = fleet.token(admin="admin-2")
        self.start()

    def run(self) -> None:
        try:
            self.answer = self.send()
        except httpx.TransportError:
            pass

    def send(self) -> httpx.Response:
        headers = {"if-none-match": "*", "content-type": "application/octet-stream"}
        path = f"/api/files/{self.file_id}"
        return self.fleet.call("PUT", self.at, path, self._token, content=self.content, headers=headers)

    def ended(self) -> httpx.Response | None:
        self.join(120)
        assert not self.is_alive()
        return self.answer


def status_of(put: Put) -> int | None:
    return None if put.answer is None else put.answer.status_code


def repeated(put: Put) -> int:
    """As a client does that got no answer or an error: until it is 201 or 412."""

    def final() -> int | None:
        try:
            status = put.send().status_code
        except httpx.TransportError:
            return None
        assert status in (201, 409, 412, 502, 503), status
        return status if status in (201, 412) else None

    return eventually(final)


def on_disks(fleet: Fleet, file_id: str) -> list[Path]:
    roots = [fleet.folder / name / "files" for name in fleet.names if name.startswith("se-")]
    return [path for root in roots for path in root.rglob(file_id)]


def assert_one_whole_file(fleet: Fleet, file_id: str, puts: list[Put], acknowledged: Put | None) -> None:
    """On one element, in the catalog, and read with the bytes of one of both clients."""
    eventually(lambda: len(on_disks(fleet, file_id)) == 1 or None)
    [row] = sql(fleet, "SELECT state, revision FROM files WHERE file_id = $1::text::uuid", file_id)
    assert (row["state"], row["revision"]) == ("available", 1)
    content = fleet.call("GET", "query", f"/api/files/{file_id}/content", fleet.token(admin="admin-2")).content
    assert content in [put.content for put in puts]
    if acknowledged is not None:
        assert content == acknowledged.content
    [generation] = sql(fleet, "SELECT generation FROM registry")
    assert generation["generation"] == 1, "no undo met the file of another upload"


@pytest.mark.parametrize("size", [10, LARGE])
def test_of_two_clients_at_once_one_creates_the_file(fleet: Fleet, size: int) -> None:
    for _ in range(10):
        file_id = str(uuid7())
        puts = [Put(fleet, at, file_id, size) for at in ("ingester", "ingester-2")]
        assert sorted(put.ended().status_code for put in puts if put.ended()) == [201, 412]  # type: ignore[union-attr]
        assert_one_whole_file(fleet, file_id, puts, next(put for put in puts if status_of(put) == 201))


def test_a_reader_that_knew_of_no_such_file_sees_it_at_once(fleet: Fleet) -> None:
    token = fleet.token(admin="admin-2")
    for _ in range(10):
        path = f"/api/files/{uuid7()}"
        assert fleet.call("GET", "query", path, token).status_code == 404
        created = fleet.call("PUT", "ingester", path, token, content=b"x", headers={"if-none-match": "*"})
        assert created.status_code == 201, created.text
        assert fleet.call("GET", "query", path, token).status_code == 200


def test_the_id_of_a_deleted_file_is_not_used_again(fleet: Fleet) -> None:
    token, file_id = fleet.token(admin="admin-2"), str(uuid7())
    headers, params = {"if-none-match": "*"}, {"retention": "temporary"}
    path = f"/api/files/{file_id}"
    created = fleet.call("PUT", "ingester", path, token, content=b"1", headers=headers, params=params)
    assert created.status_code == 201, created.text
    assert fleet.call("DELETE", "ingester", path, token).status_code == 204
    again = fleet.call("PUT", "ingester", path, token, content=b"2", headers=headers)
    assert (again.status_code, again.json()["reason"]) == (409, "deleted")
    path = f"/api/files/{fleet.upload(token, retention='temporary').json()['file_id']}"
    assert fleet.call("DELETE", "ingester", path, token).status_code == 204
    again = fleet.call("PUT", "ingester", path, token, content=b"2", headers=headers)
    assert (again.status_code, again.json()["reason"]) == (409, "deleted")


POINTS = [
    ("ingester-2", "create.claimed", 10),
    ("ingester-2", "upload.transferred", 10),
    ("ingester-2", "upload.committed", LARGE),
    ("admin-1", "admin.id_claimed", 10),
    ("admin-1", "admin.id_committed", 10),
    ("se-02", "put.intended", LARGE),
    ("se-02", "put.noted", 10),
]


@pytest.mark.parametrize(("name", "point", "size"), POINTS, ids=[f"{name}-{point}" for name, point, _ in POINTS])
def test_whatever_is_killed_a_repeat_ends_with_one_whole_file(fleet: Fleet, name: str, point: str, size: int) -> None:
    fleet.stop(name)
    start(fleet, name, f"{point}:kill")
    file_id = str(uuid7())
    puts = [Put(fleet, "ingester-2", file_id, size)]
    if name == "ingester-2":  # the other one is sent after the crash, because it may win
        assert fleet.processes.pop(name).wait(120) == -signal.SIGKILL
        puts.append(Put(fleet, "ingester", file_id, size))
    else:
        puts.append(Put(fleet, "ingester", file_id, size))
        assert fleet.processes.pop(name).wait(120) == -signal.SIGKILL
    for put in puts:
        put.ended()
    start(fleet, name, "")
    assert [status_of(put) for put in puts].count(201) <= 1
    acknowledged = next((put for put in puts if status_of(put) == 201), None)
    results: list[Any] = [put if repeated(put) == 201 else None for put in puts if status_of(put) not in (201, 412)]
    created = [put for put in results if put is not None]
    assert len(created) <= (acknowledged is None)
    assert_one_whole_file(fleet, file_id, puts, acknowledged or (created[0] if created else None))
