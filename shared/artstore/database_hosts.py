"""DATABASE_URL with several hosts in libpq's form:
`//user@first:5432,second:5432/db?target_session_attrs=read-write`.

asyncpg tries all hosts under one timeout, so a host that drops packets hides the next one. Here each host has
its own timeout. An old primary that takes writes again after a failover is left and not used any more.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg

from artstore.tasks import spawn, until_tick

DEFAULT_PORT = 5432
CHOOSE_WITHIN_S = 0.5
"""How long a first connection waits for the other hosts once one has answered."""
HISTORY_TIMEOUT_S = 3.0
WATCH_EVERY_S = 5.0
"""How often a process asks all hosts whether one of them has been promoted."""
_SEVERAL = re.compile(r"^(?P<scheme>[^:/]+://)(?P<user>[^@/]*@)?(?P<hosts>[^/?@]*,[^/?@]*)(?P<rest>[/?].*)?$")
_FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
_HISTORY = """SELECT (SELECT system_identifier FROM pg_control_system())::text AS system,
    CASE WHEN pg_is_in_recovery() THEN '' ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END AS timeline"""

Host = tuple[str, int]


@dataclass(frozen=True, slots=True)
class History:
    """The cluster of a server, and where its history is. Empty where unknown; a standby's timeline is not
    asked for."""

    system: str
    timeline: str
    """Eight hexadecimal digits, so that they compare as text."""


def has_several_hosts(url: str) -> bool:
    return bool(_SEVERAL.match(url))


def for_sqlalchemy(url: str) -> str:
    """The URL in SQLAlchemy's form, with several hosts as `?host=first:5432&host=second:5432`."""
    found = _SEVERAL.match(url)
    if found is None:
        return url
    path, _, query = (found["rest"] or "").partition("?")
    hosts = [host if _has_port(host) else f"{host}:{DEFAULT_PORT}" for host in found["hosts"].split(",")]
    named = "&".join([*(f"host={host}" for host in hosts), *([query] if query else [])])
    return f"{found['scheme']}{found['user'] or ''}{path or '/'}?{named}"


class HostConnector:
    """A replacement for asyncpg.connect that tries the host of the last success first, then the others in
    order. `on_promoted` is called when a later timeline is seen: connections to the server before must be closed."""

    def __init__(self, on_promoted: Callable[[], None] = lambda: None) -> None:
        self.on_promoted = on_promoted
        self._first: Host | None = None
        self._hosts: list[Host] = []
        self._options: Mapping[str, Any] = {}
        self._latest: dict[str, str] = {}
        """The latest timeline seen, by cluster: one made anew begins at the first."""

    async def __call__(self, *, host: Any = None, port: Any = None, **options: Any) -> asyncpg.Connection:
        """Raises the error of the last host if no host accepts the connection."""
        if not isinstance(host, list):
            given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
            return await asyncpg.connect(**given, **options)
        hosts = self._hosts = list(zip(host, port, strict=True))
        self._options = options
        if self._first is None:
            self._first = await self._choose(hosts, options)
        start = hosts.index(self._first)
        error: BaseException = ConnectionError("DATABASE_URL names no host")
        for step in range(len(hosts)):
            one, following = (hosts[(start + more) % len(hosts)] for more in (step, step + 1))
            try:
                connection = await self._connect(one, options)
            except asyncio.CancelledError:
                self._first = following  # a caller with less patience than the timeout of one host comes to the next
                raise
            except _FAILURES as failure:
                error = failure
            else:
                self._first = one
                return connection
        raise error

    async def watch(self) -> None:
        """One round, after WATCH_EVERY_S. Without it a process that could reach its server during a failover, or whose
        server was only frozen, would never learn of the new primary."""
        await asyncio.sleep(until_tick(WATCH_EVERY_S))
        asked = await asyncio.gather(
            *(self._ask_history(one, self._options) for one in self._hosts), return_exceptions=True
        )
        for found in asked:
            if isinstance(found, History) and found.system in self._latest:
                self._note(found)

    def _note(self, found: History) -> None:
        latest = self._latest.get(found.system)
        if latest is None or found.timeline > latest:
            self._latest[found.system] = found.timeline
        if latest is not None and found.timeline > latest:
            self.on_promoted()

    async def _choose(self, hosts: list[Host], options: Mapping[str, Any]) -> Host:
        """The host with the latest timeline of those that answer in time. Raises the last error when none
        does."""
        asked = {spawn("timeline", self._ask_history(one, options)): one for one in hosts}
        try:
            done, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            while waiting and all(task.exception() for task in done):
                more, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                done |= more
            if waiting:
                done |= (await asyncio.wait(waiting, timeout=CHOOSE_WITHIN_S))[0]
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        timelines = {asked[task]: task.result().timeline for task in done if not task.exception()}
        if not timelines:
            raise next(iter(done)).exception() or ConnectionError("no host of DATABASE_URL answers")
        return max((one for one in hosts if one in timelines), key=timelines.__getitem__)

    async def _ask_history(self, host: Host, options: Mapping[str, Any]) -> History:
        connection = await asyncpg.connect(host=host[0], port=host[1], **options)
        try:
            return await _history_of(connection)
        finally:
            connection.terminate()

    async def _connect(self, host: Host, options: Mapping[str, Any]) -> asyncpg.Connection:
        connection = await asyncpg.connect(host=host[0], port=host[1], **options)
        try:
            found = await _history_of(connection)
            latest = self._latest.get(found.system, "")
            if found.timeline and found.timeline < latest:
                raise asyncpg.TargetServerAttributeNotMatched(
                    f"{host[0]}:{host[1]} is on timeline {found.timeline}, and timeline {latest} was used: an old primary"
                )
        except BaseException:
            connection.terminate()
            raise
        self._note(found)
        return connection


async def _history_of(connection: asyncpg.Connection) -> History:
    try:
        row = await connection.fetchrow(_HISTORY, timeout=HISTORY_TIMEOUT_S)
    except asyncpg.InsufficientPrivilegeError:
        return History("", "")
    return History(row["system"], row["timeline"])


def _has_port(host: str) -> bool:
    return bool(re.search(r":\d+$", host))
