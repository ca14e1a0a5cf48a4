"""Real elements as processes of their own, with a real PostgreSQL and Valkey, and an admin that hears their reports."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from artstore.catalog.tables import metadata
from artstore.database import SCHEMA_REVISION
from artstore.testing.fakes import FakeAdmin
from artstore.testing.fixtures import postgres, s3, servers_folder, signer, valkey
from artstore.testing.services import PostgresServer, ValkeyServer
from artstore.testing.tokens import Signer

from .running import Neighbours

__all__ = ["postgres", "s3", "servers_folder", "signer", "valkey"]


@pytest.fixture(scope="session")
async def admin(signer: Signer) -> AsyncIterator[FakeAdmin]:
    async with FakeAdmin(signer).running() as admin:
        yield admin


async def new_neighbours(postgres: PostgresServer, valkey: ValkeyServer, admin: FakeAdmin) -> Neighbours:
    """With an empty catalog of their own."""
    database_url = postgres.url(await postgres.new_database())
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        await connection.execute(text("INSERT INTO registry (version) VALUES (1)"))
        await connection.execute(text("CREATE TABLE alembic_version (version_num text)"))
        await connection.execute(text("INSERT INTO alembic_version VALUES (:revision)"), {"revision": SCHEMA_REVISION})
    await engine.dispose()
    return Neighbours(database_url, valkey.url(), admin)


@pytest.fixture(scope="session")
async def neighbours(postgres: PostgresServer, valkey: ValkeyServer, admin: FakeAdmin) -> Neighbours:
    return await new_neighbours(postgres, valkey, admin)


@pytest.fixture
async def own_neighbours(postgres: PostgresServer, valkey: ValkeyServer, admin: FakeAdmin) -> Neighbours:
    """For a test whose element must be the only one with its id in the catalog."""
    return await new_neighbours(postgres, valkey, admin)
