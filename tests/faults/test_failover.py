"""PostgreSQL fails over to a synchronous standby under load, and the old primary comes back: DATABASE_URL names both.

One fleet, whose services are never restarted but where the last test says so. The tests go on from each other.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.fleet import eventually
from support.layout import SMALL
from support.restores import follow
from support.standby import CHANGES, WAIT_S, Pair, ask, running_pair, upload_over_new_connections


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with running_pair() as running:
        yield running


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
                pair.promote()
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
    follow(pair.standby_data, pair.primary.port)
    pair.start_standby()
    upload_over_new_connections(pair)
    pair.require_kept()
    pair.standby.discard()


def test_an_old_primary_that_comes_back_as_one_is_not_written_to(pair: Pair) -> None:
    """On its older timeline, and without waiting for any standby: it would take every write. Services are started anew too."""
    fleet = pair.fleet
    (pair.standby_data / "standby.signal").unlink()
    with (pair.standby_data / "postgresql.auto.conf").open("a") as file:
        file.write("synchronous_standby_names = ''\n")
    pair.start_standby()
    assert ask(pair.standby.port, "SELECT pg_is_in_recovery()") is False
    before = ask(pair.standby.port, CHANGES, fleet.database)
    upload_over_new_connections(pair)
    for name in SMALL:
        fleet.stop(name)
        fleet.start(name)
    fleet.ready(*SMALL)
    upload_over_new_connections(pair)
    assert ask(pair.standby.port, CHANGES, fleet.database) == before
    pair.require_kept()
