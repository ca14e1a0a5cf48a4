"""Fixtures for the tests of the whole system."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from support.system import System, running_system


@pytest.fixture(scope="session")
def system() -> Iterator[System]:
    with running_system() as started:
        yield started


@pytest.fixture(scope="session")
def client(system: System) -> Iterator[httpx.Client]:
    """Holds an ADMIN token."""
    with system.client() as opened:
        yield opened
