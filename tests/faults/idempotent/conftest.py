"""The fleet that the tests of Idempotency-Key share: with leases so short that they run out while a test waits."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from support.fleet import Fleet, running_fleet
from support.keyed import LEASE_S
from support.layout import SMALL


@pytest.fixture(scope="package")
def fleet() -> Iterator[Fleet]:
    names = (*SMALL, "se-04")  # another element for what se-02 cannot take
    with running_fleet(names, {"IDEMPOTENCY_LEASE_S": str(LEASE_S), "SAGA_LEASE_S": "20"}) as started:
        yield started


@pytest.fixture
def struck(fleet: Fleet) -> Iterator[str]:
    """The name of a second ingester, to be started as the test wants it, and killed."""
    yield "ingester-2"
    if "ingester-2" in fleet.processes:
        fleet.stop("ingester-2", signal.SIGKILL)
