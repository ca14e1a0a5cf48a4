"""Classifies errors of PostgreSQL as outages by their SQLSTATE (PostgreSQL documentation, appendix A).

Three kinds, all answered 503 and all naming `database`. DatabaseUnavailable counts against the breaker.
DatabaseRefusesWrites does not, because reads still work. DatabaseBusy says nothing about the next statement.
"""

from __future__ import annotations

import asyncpg
import sqlalchemy.exc
from sqlalchemy.connectors.asyncio import AsyncAdapt_Error

from artstore.errors import DATABASE, Unavailable

BUSY_RETRY_AFTER_S = 1


class DatabaseUnavailable(Unavailable):
    """PostgreSQL cannot be reached, refuses connections, or lacks the schema."""


class DatabaseRefusesWrites(Unavailable):
    """PostgreSQL answers reads but refuses writes: read-only, out of space or memory, missing grant."""


class DatabaseBusy(Unavailable):
    """PostgreSQL gave up one statement: statement timeout, lock timeout, deadlock, slow search."""


_NOT_REACHED = (
    OSError,  # refused, reset, and TimeoutError of a command
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # no host matches target_session_attrs
    sqlalchemy.exc.TimeoutError,  # no connection became free in the pool
)

_AWAY_STATES = {
    "08": "PostgreSQL closed the connection",
    "28": "PostgreSQL refuses this service's login",
    "3D": "PostgreSQL has no database of this name",
    "3F": "PostgreSQL lacks the schema",
    "42P01": "PostgreSQL lacks the schema",  # before admin's migrations
    "53300": "PostgreSQL has no free connection slot",
    "55000": "PostgreSQL accepts no connections to this database",
    "57P": "PostgreSQL is starting or shutting down",
}
_REFUSING_STATES = {
    "25006": "PostgreSQL is read-only",
    "42501": "PostgreSQL denies this service a privilege",
    "53100": "PostgreSQL has no disk space left",
    "53200": "PostgreSQL has no memory left",
    "53": "PostgreSQL has reached a resource limit",
    "58": "PostgreSQL reports disk errors",
}
_BUSY_STATES = {
    "25P03": "PostgreSQL ended the transaction",
    "25P04": "PostgreSQL ended the transaction",
    "40001": "PostgreSQL asks for the transaction to be repeated",
    "40P01": "PostgreSQL asks for the transaction to be repeated",
    "55P03": "PostgreSQL did not get a lock in time",
    "57014": "PostgreSQL cancelled the statement",
}
READ_ONLY = "25006"


def sqlstate_of(error: BaseException) -> str:
    """The SQLSTATE of an error, also of one that SQLAlchemy has wrapped; '' if it did not come from the server."""
    return str(getattr(_unwrap(error), "sqlstate", None) or "")


def outage_of(error: BaseException) -> DatabaseUnavailable | DatabaseRefusesWrites | DatabaseBusy | None:
    """The error to raise instead, or None if PostgreSQL works and refused this statement for its content."""
    state = sqlstate_of(error)
    if busy := _find(_BUSY_STATES, state):
        return DatabaseBusy(busy, away=DATABASE, retry_after_s=BUSY_RETRY_AFTER_S)
    if away := _find(_AWAY_STATES, state):
        return DatabaseUnavailable(away, away=DATABASE)
    if refused := _find(_REFUSING_STATES, state):
        return DatabaseRefusesWrites(refused, away=DATABASE)
    if _was_not_reached(error):
        return DatabaseUnavailable("PostgreSQL is unavailable", away=DATABASE)
    return None


def _was_not_reached(error: BaseException) -> bool:
    invalidated = isinstance(error, sqlalchemy.exc.DBAPIError) and error.connection_invalidated
    return invalidated or isinstance(_unwrap(error), _NOT_REACHED)


def _unwrap(error: BaseException) -> BaseException:
    """asyncpg's own error. SQLAlchemy wraps it once at a connect, and twice in a statement."""
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        error = error.orig or error
    if isinstance(error, AsyncAdapt_Error):
        error = error.__cause__ or error
    return error


def _find(states: dict[str, str], state: str) -> str | None:
    """The entry for the whole code, else for its class."""
    return next((states[state[:length]] for length in (5, 3, 2) if len(state) == 5 and state[:length] in states), None)
