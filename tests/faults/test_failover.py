"""PostgreSQL fails over to a synchronous standby under load, and the old primary comes back: DATABASE_URL names both.

One fleet, whose services are never restarted but where the last test says so. The tests go on from each other.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from support.fleet import Fleet, eventually, running_fleet
from support.layout import SMALL
from support.restores import copy_for_standby, follow

from artstore.testing.services import PostgresServer, lasting_port, start_postgres

UPLOADERS = 3
WAIT_S = 120
CHANGES = "SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint FROM pg_stat_user_tables"
LEFT = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'artstore'"


def ask(port: int, statement: str, database: str = "postgres") -> Any:
    async def run() -> Any:
        connection = await asyncpg.connect(host="127.0.0.1", port=port, user="postgres", database=database)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(run())


@dataclass
class Pair:
    fleet: Fleet
    token: str
    standby: PostgresServer
    """The primary after the failover."""
    acknowledged: dict[str, bytes] = field(default_factory=dict)
    refused: list[httpx.Response] = field(default_factory=list)

    @property
    def old_data(self) -> Path:
        return self.fleet.folder / "postgres"

    def upload(self) -> int:
        content = os.urandom(200)
        answer = self.fleet.upload(self.token, content)
        if answer.status_code == 201:
            self.acknowledged[answer.json()["file_id"]] = content
        else:
            self.refused.append(answer)
        return answer.status_code

    @contextmanager
    def uploading(self) -> Iterator[None]:
        ended = threading.Event()

        def run() -> None:
            while not ended.is_set():
                if self.upload() != 201:
                    ended.wait(0.1)

        with ThreadPoolExecutor(UPLOADERS) as threads:
            running = [threads.submit(run) for _ in range(UPLOADERS)]
            try:
                yield
            finally:
                ended.set()
            for one in running:
                one.result()

    def has_acknowledged(self, count: int) -> bool:
        return len(self.acknowledged) >= count

    def require_kept(self) -> None:
        """Every acknowledged file is readable, and the new primary has its row as available."""
        for file_id, content in self.acknowledged.items():
            answer = self.fleet.call("GET", "query", f"/api/files/{file_id}/content", self.token)
            assert answer.status_code == 200, answer.text
            assert answer.content == content
        ids = ",".join(f"'{file_id}'" for file_id in self.acknowledged)
        statement = f"SELECT count(*) FROM files WHERE state = 'available' AND file_id IN ({ids})"
        eventually(lambda: ask(self.standby.port, statement, self.fleet.database) == len(self.acknowledged), WAIT_S)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    port = lasting_port()
    with running_fleet(standby_port=port) as fleet:
        folder = fleet.folder / "standby"
        folder.mkdir()
        folder.chmod(0o711)
        copy_for_standby(fleet, folder)
        standby = start_postgres(folder, port)
        try:
            ask(fleet.postgres.port, "ALTER SYSTEM SET synchronous_standby_names = '*'")
            ask(fleet.postgres.port, "SELECT pg_reload_conf()")
            state = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
            eventually(lambda: ask(fleet.postgres.port, state) == 1)
            yield Pair(fleet, fleet.token(), standby)
        finally:
            standby.discard()


def test_a_failover_loses_nothing_acknowledged_and_needs_no_restart(pair: Pair) -> None:
    """An upload whose saga was begun before runs all the while, and is stored too."""
    fleet, over = pair.fleet, threading.Event()
    pids = {name: process.pid for name, process in fleet.processes.items()}
    content = bytearray()

    def pieces() -> Iterator[bytes]:
        while not over.is_set():
            piece = os.urandom(4096)
            content.extend(piece)
            yield piece
            over.wait(0.1)

    with ThreadPoolExecutor(1) as thread:
        options: dict[str, Any] = {"params": {"filename": "slow.bin"}, "content": pieces()}
        options["headers"] = {"content-type": "application/octet-stream"}
        running = thread.submit(fleet.call, "POST", "ingester", "/api/files/upload", pair.token, **options)
        try:
            eventually(lambda: fleet.call("GET", "admin-1", "/api/sagas?state=begun", pair.token).json()["items"])
            with pair.uploading():
                eventually(lambda: len(pair.acknowledged) > 20)
                fleet.postgres.discard()
                eventually(lambda: len(pair.refused) > 5)
                read = fleet.call("GET", "query", f"/api/files/{next(iter(pair.acknowledged))}/content", pair.token)
                assert (read.status_code, read.headers["x-artstore-degraded"]) == (200, "database")
                assert ask(pair.standby.port, "SELECT pg_promote()")
                before = len(pair.acknowledged)
                eventually(lambda: len(pair.acknowledged) > before + 20, WAIT_S)
        finally:
            over.set()
        answer = running.result()
    assert {one.status_code for one in pair.refused} == {503}
    assert all(int(one.headers["retry-after"]) <= 5 for one in pair.refused)
    assert answer.status_code == 201, answer.text
    pair.acknowledged[answer.json()["file_id"]] = bytes(content)
    fleet.ready(*SMALL)
    assert {name: process.pid for name, process in fleet.processes.items() if process.poll() is None} == pids
    pair.require_kept()
    degraded = "x-artstore-degraded"
    eventually(lambda: degraded not in fleet.call("GET", "query", "/api/files", pair.token).headers, WAIT_S)


def test_an_old_primary_that_comes_back_as_a_standby_is_not_used(pair: Pair) -> None:
    fleet = pair.fleet
    follow(pair.old_data, pair.standby.port)
    fleet.start_postgres()
    upload_over_new_connections(pair, fleet.postgres.port)
    pair.require_kept()
    fleet.postgres.discard()


def test_an_old_primary_that_comes_back_as_one_is_not_written_to(pair: Pair) -> None:
    """On its older timeline, and without waiting for any standby: it would take every write. Services are started anew too."""
    fleet = pair.fleet
    (pair.old_data / "standby.signal").unlink()
    with (pair.old_data / "postgresql.auto.conf").open("a") as file:
        file.write("synchronous_standby_names = ''\n")
    fleet.start_postgres()
    assert ask(fleet.postgres.port, "SELECT pg_is_in_recovery()") is False
    before = ask(fleet.postgres.port, CHANGES, fleet.database)
    upload_over_new_connections(pair, fleet.postgres.port)
    for name in SMALL:
        fleet.stop(name)
        fleet.start(name)
    fleet.ready(*SMALL)
    upload_over_new_connections(pair, fleet.postgres.port)
    assert ask(fleet.postgres.port, CHANGES, fleet.database) == before
    pair.require_kept()


def upload_over_new_connections(pair: Pair, old: int) -> None:
    """All of them are broken off twice; in the end none leads to the old server."""
    end_all = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'artstore'"
    with pair.uploading():
        for _ in range(2):
            ask(pair.standby.port, end_all)
            before = len(pair.acknowledged)
            eventually(partial(pair.has_acknowledged, before + 11), WAIT_S)
    eventually(lambda: ask(old, LEFT) == 0)
    assert {one.status_code for one in pair.refused} <= {503}
