"""One module for all tests here: they differ only in what the catalog holds."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from tests.rig import Rig, running

from artstore.testing.services import PostgresServer, ValkeyServer
from artstore.testing.tokens import Signer


@pytest.fixture(scope="module")
async def started(postgres: PostgresServer, valkey: ValkeyServer, signer: Signer) -> AsyncIterator[Rig]:
    async with running(postgres, valkey, signer) as rig:
        yield rig


@pytest.fixture
async def rig(started: Rig) -> Rig:
    async with started.engine.begin() as connection:
        await connection.execute(text("TRUNCATE files, file_search"))
    return started
