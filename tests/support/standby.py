"""A fleet whose PostgreSQL has a synchronous standby, under a load of uploads: what was acknowledged must be kept."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from artstore.testing.services import PostgresServer, lasting_port, start_postgres
from artstore.testing.valkey_cluster import ValkeyCluster

from .fleet import Fleet, eventually, repeating, running_fleet
from .layout import SMALL
from .restores import copy_for_standby

UPLOADERS = 3
WAIT_S = 120
CHANGES = "SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint FROM pg_stat_user_tables"
IN_USE = """SELECT string_agg(concat_ws(' ', usename, state, wait_event, query), '; ') FROM pg_stat_activity
    WHERE application_name = 'artstore' AND query_start > now() - interval '10 s' AND wait_event IS DISTINCT FROM 'SyncRep'"""
"""The connections of services that are used, if any. Each service checks its server every two seconds. A commit that waits for a
standby is not counted: its client has given it up, and it waits for ever."""


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
    primary: PostgresServer
    standby: PostgresServer
    """The other one, which may be down."""
    acknowledged: dict[str, bytes] = field(default_factory=dict)
    refused: list[httpx.Response] = field(default_factory=list)

    def promote(self) -> None:
        """The standby becomes the primary, which waits for no standby. The services are not told."""
        assert ask(self.standby.port, "SELECT pg_promote()")
        set_synchronous(self.standby.port, "")
        self.primary, self.standby = self.standby, self.primary

    def start_standby(self) -> None:
        """Start the server that is down, with what is in its data folder."""
        self.standby = start_postgres(self.standby.folder, self.standby.port)

    @property
    def standby_data(self) -> Path:
        return self.standby.folder / "postgres"

    def upload(self) -> int:
        content = os.urandom(200)
        answer = self.fleet.upload(self.token, content)
        if answer.status_code == 201:
            self.acknowledged[answer.json()["file_id"]] = content
        else:
            self.refused.append(answer)
        return answer.status_code

    def uploading(self) -> AbstractContextManager[None]:
        return repeating(lambda: self.upload() == 201, UPLOADERS)

    def has_acknowledged(self, count: int) -> bool:
        return len(self.acknowledged) >= count

    def require_kept(self) -> None:
        """Every acknowledged file is readable, and the primary has its row as available."""
        for file_id, content in self.acknowledged.items():
            answer = self.fleet.call("GET", "query", f"/api/files/{file_id}/content", self.token)
            assert answer.status_code == 200, answer.text
            assert answer.content == content
        ids = ",".join(f"'{file_id}'" for file_id in self.acknowledged)
        statement = f"SELECT count(*) FROM files WHERE state = 'available' AND file_id IN ({ids})"
        eventually(lambda: ask(self.primary.port, statement, self.fleet.database) == len(self.acknowledged), WAIT_S)


@contextmanager
def running_pair(
    names: tuple[str, ...] = SMALL,
    *,
    own_settings: dict[str, dict[str, str]] | None = None,
    settings: Mapping[str, str] | None = None,
    cluster: ValkeyCluster | None = None,
) -> Iterator[Pair]:
    """Each commit waits for the standby."""
    port = lasting_port()
    with running_fleet(names, settings, own_settings=own_settings, standby_port=port, cluster=cluster) as fleet:
        folder = fleet.folder / "standby"
        folder.mkdir()
        folder.chmod(0o711)
        # pg_rewind reads the log of the old primary back to the last checkpoint before the failover.
        ask(fleet.postgres.port, "ALTER SYSTEM SET wal_keep_size = '512MB'")
        ask(fleet.postgres.port, "SELECT pg_reload_conf()")
        copy_for_standby(fleet, folder)
        standby = start_postgres(folder, port)
        pair = Pair(fleet, fleet.token(), fleet.postgres, standby)
        try:
            wait_for_standby(pair.primary.port)
            yield pair
        finally:
            pair.standby.discard()
            pair.primary.discard()


def wait_for_standby(primary: int) -> None:
    """From now on commits wait for a standby, and one is there."""
    set_synchronous(primary, "*")
    state = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
    eventually(lambda: ask(primary, state) == 1)


def set_synchronous(port: int, names: str) -> None:
    ask(port, f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
    ask(port, "SELECT pg_reload_conf()")


def leaves(port: int) -> None:
    """Waits until no service uses this server."""
    deadline_s = time.monotonic() + WAIT_S
    while (found := ask(port, IN_USE)) and time.monotonic() < deadline_s:
        time.sleep(0.5)
    assert not found, found


def upload_over_new_connections(pair: Pair) -> None:
    """All of them are broken off twice; in the end none leads to the other server."""
    end_all = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'artstore'"
    with pair.uploading():
        for _ in range(2):
            ask(pair.primary.port, end_all)
            before = len(pair.acknowledged)
            eventually(partial(pair.has_acknowledged, before + 11), WAIT_S)
    leaves(pair.standby.port)
    assert {one.status_code for one in pair.refused} <= {503}
