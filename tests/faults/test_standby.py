"""The runbook of docs/scaling.md under load: kill or freeze the primary, promote the standby, let the old primary rejoin by
pg_rewind, fail back. One fleet, whose services are never restarted but where a test says so. The tests go on from each other.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator

import asyncpg
import pytest
from support.fleet import eventually
from support.layout import SMALL
from support.restores import rewind
from support.standby import (
    WAIT_S,
    Pair,
    ask,
    leaves,
    running_pair,
    set_synchronous,
    upload_over_new_connections,
    wait_for_standby,
)

from artstore.testing.services import PostgresServer, frozen

ALONE_S = 3.0
"""An old primary without its standby acknowledges nothing for at least this long."""


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with running_pair() as running:
        yield running


def promote(pair: Pair) -> float:
    """Returns the seconds until the next upload is acknowledged."""
    began_s, before = time.monotonic(), len(pair.acknowledged)
    pair.promote()
    eventually(lambda: pair.has_acknowledged(before + 1), WAIT_S)
    took_s = time.monotonic() - began_s
    eventually(lambda: pair.has_acknowledged(before + 20), WAIT_S)
    return took_s


def rejoin(pair: Pair) -> None:
    """The stopped old primary becomes the synchronous standby of the new one."""
    rewind(pair.standby_data, pair.primary.port)
    pair.start_standby()
    wait_for_standby(pair.primary.port)


def test_a_killed_primary_loses_nothing_acknowledged_and_rejoins_by_pg_rewind(pair: Pair) -> None:
    with pair.uploading():
        eventually(lambda: pair.has_acknowledged(20))
        kill(pair.primary)
        eventually(lambda: len(pair.refused) > 5)
        print(f"first upload {promote(pair):.1f} s after the promotion of the standby of a killed primary")
        rejoin(pair)
        before = len(pair.acknowledged)
        eventually(lambda: pair.has_acknowledged(before + 20), WAIT_S)
    assert {one.status_code for one in pair.refused} == {503}
    assert ask(pair.standby.port, "SELECT pg_is_in_recovery()") is True
    pair.require_kept()


def test_the_rejoined_server_is_promoted_in_turn(pair: Pair) -> None:
    """Failing back: nothing is lost in this direction either, and the services follow without a restart."""
    with pair.uploading():
        kill(pair.primary)
        promote(pair)
        rejoin(pair)
    pair.fleet.ready(*SMALL)
    pair.require_kept()


def test_a_frozen_primary_that_continues_acknowledges_nothing(pair: Pair) -> None:
    """Its commits wait for a standby that has left it, and the services have left it too."""
    with pair.uploading():
        with frozen(pair.primary.process.pid):
            eventually(lambda: pair.refused[-1:] and pair.refused[-1].status_code == 503)
            print(f"first upload {promote(pair):.1f} s after the promotion of the standby of a frozen primary")
        assert ask(pair.standby.port, "SELECT pg_is_in_recovery()") is False
        assert asyncio.run(is_acknowledged(pair.standby, pair.fleet.database)) is False
        leaves(pair.standby.port)
        before = len(pair.acknowledged)
        eventually(lambda: pair.has_acknowledged(before + 20), WAIT_S)
    upload_over_new_connections(pair)
    assert {one.status_code for one in pair.refused} == {503}
    pair.require_kept()


def test_after_the_failover_locks_migrations_keys_and_queued_work_go_on(pair: Pair) -> None:
    """A new admin takes the lock of the migrations on the new primary; a key rotation, an expired lease and a queued change
    find their locks there too."""
    fleet = pair.fleet
    fleet.stop("admin-2")
    fleet.start("admin-2")
    fleet.ready("admin-2")
    assert fleet.call("POST", "admin-2", "/api/auth/keys/rotate", pair.token).status_code in (200, 201, 202)
    record = fleet.upload(pair.token, b"queued", retention="temporary").json()
    fleet.stop("se-01", signal.SIGKILL)
    answer = fleet.call("DELETE", "ingester", f"/api/files/{record['file_id']}", pair.token)
    assert answer.status_code == 202, answer.text
    fleet.start("se-01")
    fleet.ready("se-01")
    path = f"/api/files/{record['file_id']}"
    eventually(lambda: fleet.call("GET", "query", path, pair.token).status_code == 404, WAIT_S)
    assert fleet.call("GET", "admin-1", "/api/audit/verify", pair.token).json()["ok"] is True


def test_a_lost_standby_stops_writes_until_the_operator_decides(pair: Pair) -> None:
    """Each commit waits for it: uploads are refused, not lost. Then the primary goes on alone."""
    kill(pair.standby)
    rejoin(pair)
    kill(pair.standby)
    assert pair.upload() == 503
    set_synchronous(pair.primary.port, "")
    eventually(lambda: pair.upload() == 201, WAIT_S)
    pair.require_kept()


def kill(server: PostgresServer) -> None:
    """The postmaster and its children at once."""
    with frozen(server.process.pid):
        server.process.kill()
    server.process.wait()


async def is_acknowledged(server: PostgresServer, database: str) -> bool:
    connection = await asyncpg.connect(host="127.0.0.1", port=server.port, user="postgres", database=database)
    try:
        await asyncio.wait_for(connection.execute("CREATE TABLE written_by_the_old_primary ()"), ALONE_S)
    except TimeoutError:
        return False
    finally:
        connection.terminate()
    return True
