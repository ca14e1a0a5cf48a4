"""Stops while PostgreSQL or Redis hangs, and uploads that run through an outage longer than their lease.

One fleet. A stop has the limit of docs/operations/running.md: `up` kills a part that has not ended after 60 s.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx
import pytest
from support.fleet import Fleet, eventually, running_fleet
from support.layout import SMALL

from artstore.testing.services import frozen

STOP_LIMIT_S = 60
"""The limit of `./artstore up` and of compose."""
LEASE_S = 8.0
OUTAGE_S = 1.5 * LEASE_S
PIECE = 4096
PIECES_EVERY_S = 0.1
UPLOADERS = 3


@dataclass
class Clients:
    """Some that upload without a pause, and what was acknowledged to them."""

    fleet: Fleet
    token: str
    acknowledged: dict[str, bytes] = field(default_factory=dict)

    @contextmanager
    def uploading(self) -> Iterator[None]:
        ended = threading.Event()

        def upload() -> None:
            while not ended.is_set():
                content = os.urandom(200)
                try:
                    answer = self.fleet.upload(self.token, content)
                except httpx.TransportError:
                    ended.wait(0.1)
                    continue
                if answer.status_code == 201:
                    self.acknowledged[answer.json()["file_id"]] = content

        with ThreadPoolExecutor(UPLOADERS) as threads:
            try:
                for _ in range(UPLOADERS):
                    threads.submit(upload)
                yield
            finally:
                ended.set()

    def require_kept(self) -> None:
        for file_id, content in self.acknowledged.items():
            answer = self.fleet.call("GET", "query", f"/api/files/{file_id}/content", self.token)
            assert answer.status_code == 200, answer.text
            assert answer.content == content
        assert self.listed() >= set(self.acknowledged)

    def listed(self) -> set[str]:
        """The ids of all files, from the catalog."""
        found: set[str] = set()
        cursor: str | None = None
        while True:
            params = {"limit": "1000", **({"cursor": cursor} if cursor else {})}
            page = self.fleet.call("GET", "query", "/api/files", self.token, params=params).json()
            found |= {one["file_id"] for one in page["items"]}
            cursor = page["next_cursor"]
            if cursor is None:
                return found


@pytest.fixture(scope="module")
def clients() -> Iterator[Clients]:
    with running_fleet(settings={"SAGA_LEASE_S": str(LEASE_S)}) as fleet:
        yield Clients(fleet, fleet.token())


# Stops --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["postgres", "valkey"])
def test_every_service_stops_within_its_limit_while_a_server_hangs_and_loses_nothing(
    clients: Clients, server: str
) -> None:
    """Uploads are under way. A change and a delete acknowledged meanwhile are in the catalog and the audit log afterwards."""
    fleet = clients.fleet
    changed, deleted = (fleet.upload(clients.token, retention="temporary").json()["file_id"] for _ in range(2))
    process = {"postgres": fleet.postgres.process, "valkey": fleet.valkey.process}[server]
    with clients.uploading():
        before = len(clients.acknowledged)
        eventually(lambda: len(clients.acknowledged) > before + 10)
        with frozen(process.pid):
            revision = change(clients, changed, "while it hangs")
            assert fleet.call("DELETE", "ingester", f"/api/files/{deleted}", clients.token).status_code == 204
            statuses = stop_all(fleet)
    assert statuses == dict.fromkeys(SMALL, 0)
    for name in SMALL:
        fleet.start(name)
    fleet.ready(*SMALL)
    eventually(lambda: clients.listed() >= {changed, *clients.acknowledged})
    clients.require_kept()
    record = eventually(lambda: record_at(clients, changed, revision))
    assert record["filename"] == "while it hangs"
    eventually(lambda: deleted not in clients.listed())
    assert fleet.call("GET", "query", f"/api/files/{deleted}", clients.token).status_code == 404
    eventually(lambda: is_audited(clients, deleted))


def change(clients: Clients, file_id: str, filename: str) -> int:
    """The revision that was acknowledged."""
    path = f"/api/files/{file_id}"
    answer = clients.fleet.call("PATCH", "ingester", path, clients.token, json={"filename": filename})
    assert answer.status_code == 200, answer.text
    return int(answer.json()["revision"])


def stop_all(fleet: Fleet) -> dict[str, int]:
    """All at once, while they still have requests; each exit status."""
    processes, fleet.processes = fleet.processes, {}
    for process in processes.values():
        process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + STOP_LIMIT_S
    statuses = {}
    for name, process in processes.items():
        begun_s = time.monotonic()
        try:
            statuses[name] = process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            statuses[name] = process.wait()
        print(f"{name} ended {time.monotonic() - begun_s:.1f} s after the one before it")
    return statuses


def record_at(clients: Clients, file_id: str, revision: int) -> dict[str, Any] | None:
    """The file's record in the list, which PostgreSQL alone answers, once it has reached the revision."""
    params = {"limit": "1000", "filename": "while it hangs"}  # by its new name: thousands have been uploaded since
    page = clients.fleet.call("GET", "query", "/api/files", clients.token, params=params).json()
    found = [one for one in page["items"] if one["file_id"] == file_id]
    return found[0] if found and found[0]["revision"] >= revision else None


def is_audited(clients: Clients, file_id: str) -> bool:
    page = clients.fleet.call("GET", "admin-1", "/api/audit?action=file:delete&limit=1000", clients.token).json()
    return any(file_id in event["resource"] for event in page["items"])


# Leases -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("away", ["postgresql", "admin"])
def test_an_upload_that_runs_through_an_outage_longer_than_its_lease_is_stored(clients: Clients, away: str) -> None:
    fleet = clients.fleet
    over, before = threading.Event(), begun_sagas(clients)
    sent = bytearray()

    def pieces() -> Iterator[bytes]:
        while not over.is_set():
            piece = os.urandom(PIECE)
            sent.extend(piece)
            yield piece
            over.wait(PIECES_EVERY_S)

    def upload() -> httpx.Response:
        headers = {"content-type": "application/octet-stream"}
        path, params = "/api/files/upload", {"filename": "slow.bin"}
        return fleet.call("POST", "ingester", path, clients.token, params=params, content=pieces(), headers=headers)

    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(upload)
        try:
            (own,) = eventually(lambda: begun_sagas(clients) - before)
            lose(fleet, away)
            # The lease runs out meanwhile: nothing but the clock says when
            time.sleep(OUTAGE_S)
            # Back, it decides on the lease before the ingester renews it, as with the default lease and its minute's renewals
            with frozen(fleet.processes["ingester"].pid):
                give_back(fleet, away)
                eventually(lambda: is_decided(fleet, own))
            fleet.ready(*SMALL)
        finally:
            over.set()
        answer = running.result()
    assert answer.status_code == 201, answer.text
    file_id = answer.json()["file_id"]
    content = fleet.call("GET", "query", f"/api/files/{file_id}/content", clients.token).content
    assert content == bytes(sent)
    eventually(lambda: file_id in clients.listed())


def begun_sagas(clients: Clients) -> set[str]:
    items = clients.fleet.call("GET", "admin-1", "/api/sagas?state=begun", clients.token).json()["items"]
    return {one["saga_id"] for one in items}


def is_decided(fleet: Fleet, saga_id: str) -> bool:
    """The saga's lease has begun anew, or it is not open any more."""
    statement = f"SELECT state <> 'begun' OR due_at > now() FROM sagas WHERE saga_id = '{saga_id}'"

    async def ask() -> bool:
        connection = await asyncpg.connect(
            host="127.0.0.1", port=fleet.postgres.port, user="postgres", database=fleet.database
        )
        try:
            return bool(await connection.fetchval(statement))
        finally:
            await connection.close()

    return asyncio.run(ask())


def lose(fleet: Fleet, away: str) -> None:
    """PostgreSQL in good order: a crash may lose a saga that began a moment before, and its lease with it."""
    if away == "postgresql":
        fleet.postgres.stop()
    else:
        for name in ("admin-1", "admin-2"):
            fleet.stop(name)


def give_back(fleet: Fleet, away: str) -> None:
    if away == "postgresql":
        fleet.start_postgres()
    else:
        for name in ("admin-1", "admin-2"):
            fleet.start(name)
