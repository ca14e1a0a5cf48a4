"""DATABASE_URL with several hosts: `//user@first:5432,second:5432/db?target_session_attrs=read-write`, as libpq writes it.

asyncpg tries the hosts of a list under one timeout, so a host that swallows packets hides the next one. Here each has its own.
"""

from __future__ import annotations

import re
from typing import Any

import asyncpg

DEFAULT_PORT = 5432
_SEVERAL = re.compile(r"^(?P<scheme>[^:/]+://)(?P<user>[^@/]*@)?(?P<hosts>[^/?@]*,[^/?@]*)(?P<rest>[/?].*)?$")


def for_sqlalchemy(url: str) -> str:
    """The URL in SQLAlchemy's form, which names several hosts as `?host=first:5432&host=second:5432`."""
    found = _SEVERAL.match(url)
    if found is None:
        return url
    path, _, query = (found["rest"] or "").partition("?")
    hosts = [host if _has_port(host) else f"{host}:{DEFAULT_PORT}" for host in found["hosts"].split(",")]
    named = "&".join([*(f"host={host}" for host in hosts), *([query] if query else [])])
    return f"{found['scheme']}{found['user'] or ''}{path or '/'}?{named}"


class HostConnector:
    """Takes the place of asyncpg.connect: the host that was right last time is tried first, the others in turn."""

    def __init__(self) -> None:
        self._first = 0

    async def __call__(self, *, host: Any = None, port: Any = None, **options: Any) -> asyncpg.Connection:
        """Raises the last host's error when no host accepts the connection."""
        if not isinstance(host, list):
            given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
            return await asyncpg.connect(**given, **options)
        tries = list(zip(host, port, strict=True))
        for step in range(len(tries)):
            index = (self._first + step) % len(tries)
            name, number = tries[index]
            try:
                connection = await asyncpg.connect(host=name, port=number, **options)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
                if step == len(tries) - 1:
                    raise
            else:
                self._first = index
                return connection
        raise ConnectionError("DATABASE_URL names no host")


def _has_port(host: str) -> bool:
    return bool(re.search(r":\d+$", host))
