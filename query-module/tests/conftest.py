"""Fixtures: one PostgreSQL and one Valkey for all tests, a query module for each."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.rig import Rig, running

from artstore.testing.fixtures import postgres, servers_folder, signer, valkey
from artstore.testing.services import PostgresServer, ValkeyServer
from artstore.testing.tokens import Signer

__all__ = ["postgres", "servers_folder", "signer", "valkey"]


@pytest.fixture
async def rig(postgres: PostgresServer, valkey: ValkeyServer, signer: Signer) -> AsyncIterator[Rig]:
    async with running(postgres, valkey, signer) as started:
        yield started
