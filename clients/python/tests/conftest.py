"""One system for all tests behind a proxy that can fail, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from support.system import System, own_system
from tests.faulty import FaultyProxy, faulty_proxy

from artstore_client import Client


@pytest.fixture(scope="session")
def system() -> Iterator[System]:
    with own_system(RATE_LIMIT_PER_MINUTE="100000", RATE_LIMIT_BURST="100000") as started:
        yield started


@pytest.fixture
async def proxy(system: System) -> AsyncIterator[FaultyProxy]:
    async with faulty_proxy(system) as opened:
        yield opened


@pytest.fixture
def connect(system: System, proxy: FaultyProxy) -> Callable[..., Client]:
    """Makes a client of the system, as ADMIN unless options say otherwise."""

    def made(**options: Any) -> Client:
        named = {"token", "client_id"} & options.keys()
        return Client(proxy.url, **{**({} if named else system.credentials()), **options})

    return made


@pytest.fixture
async def store(connect: Callable[..., Client]) -> AsyncIterator[Client]:
    async with connect() as opened:
        yield opened
