"""A clock that disagrees with PostgreSQL's is a reason not to be ready."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from artstore.clock import Clock
from artstore.clock_check import ClockCheck, ahead_s
from artstore.config import DatabaseSettings
from artstore.database import open_database
from artstore.metrics import new_registry
from artstore.peers.breaker import Breakers
from artstore.runtime import Runtime
from artstore.testing.services import PostgresServer, free_port

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("before_s", "after_s", "certain_s"),
    [(0, 0, 0), (-1, 1, 0), (-5, 30, 0), (3600, 3601, 3600), (-3601, -3600, -3600), (-1, 0, 0)],
)
def test_only_what_is_certain_counts(before_s: float, after_s: float, certain_s: float) -> None:
    """A slow answer does not mean a wrong clock."""
    before, after = NOON + timedelta(seconds=before_s), NOON + timedelta(seconds=after_s)
    assert ahead_s(before, NOON, after) == certain_s


class Wrong(Clock):
    def __init__(self, shift_s: float) -> None:
        self.shift = timedelta(seconds=shift_s)

    def now(self) -> datetime:
        return super().now() + self.shift


async def verdict(runtime: Runtime, url: str, shift_s: float) -> str:
    """The message of the check; empty if the clock is right."""
    settings = DatabaseSettings(database_url=SecretStr(url))
    async with open_database(settings, runtime, Breakers(new_registry())) as database:
        check = ClockCheck(
            dataclasses.replace(runtime, clock=Wrong(shift_s), registry=new_registry()), database.autocommit
        )
        try:
            await check.check()
        except ConnectionError as error:
            return str(error)
        finally:
            await runtime.tasks.close()
    return ""


@pytest.mark.parametrize("shift_s", [3600.0, -3600.0])
async def test_a_wrong_clock_is_said(runtime: Runtime, postgres: PostgresServer, shift_s: float) -> None:
    said = await verdict(runtime, postgres.url(await postgres.new_database()), shift_s)
    assert f"{shift_s:+.0f}"[:3] in said
    assert "differs from PostgreSQL's" in said


async def test_a_right_clock_is_no_matter(runtime: Runtime, postgres: PostgresServer) -> None:
    assert await verdict(runtime, postgres.url(await postgres.new_database()), 0.0) == ""


async def test_while_postgresql_is_away_nothing_is_said_of_the_clock(runtime: Runtime) -> None:
    nowhere = f"postgresql+asyncpg://postgres@127.0.0.1:{free_port()}/none"
    assert await verdict(runtime, nowhere, 3600.0) == ""
