"""What counts as PostgreSQL being away."""

from __future__ import annotations

import asyncpg
import pytest
import sqlalchemy.exc

from artstore.database import is_away

AWAY: list[BaseException] = [
    ConnectionRefusedError(),
    ConnectionResetError(),
    TimeoutError(),
    asyncpg.ConnectionDoesNotExistError("gone"),
    asyncpg.CannotConnectNowError("the database system is not yet accepting connections"),
    asyncpg.AdminShutdownError("terminating connection due to administrator command"),
    asyncpg.CrashShutdownError("terminating connection because of crash of another server process"),
    asyncpg.TooManyConnectionsError("sorry, too many clients already"),
]
THERE: list[BaseException] = [
    asyncpg.UniqueViolationError("duplicate key"),
    asyncpg.DeadlockDetectedError("deadlock detected"),
    ValueError("not of PostgreSQL at all"),
]


def wrapped(error: BaseException) -> sqlalchemy.exc.DBAPIError:
    """As SQLAlchemy raises what its driver raised."""
    of_driver = Exception(str(error))
    of_driver.__cause__ = error
    return sqlalchemy.exc.DBAPIError("SELECT 1", None, of_driver)


@pytest.mark.parametrize("error", AWAY, ids=lambda error: type(error).__name__)
def test_a_server_that_is_gone_starting_or_full_is_away(error: BaseException) -> None:
    assert is_away(error)
    assert is_away(wrapped(error))


@pytest.mark.parametrize("error", THERE, ids=lambda error: type(error).__name__)
def test_a_server_that_refuses_a_statement_is_there(error: BaseException) -> None:
    assert not is_away(error)
    assert not is_away(wrapped(error))


def test_a_missing_schema_is_waited_for() -> None:
    assert is_away(wrapped(asyncpg.UndefinedTableError("files")))
