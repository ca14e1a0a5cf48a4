"""A running query module on a port of its own, with real PostgreSQL and Valkey, two fake elements and a fake admin."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from socket import socket as Socket
from typing import Any

import httpx
import msgspec
import uvicorn
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.core.config import Settings
from app.core.context import Context
from app.main import create_app
from artstore.catalog.search_index import is_behind, update_index
from artstore.catalog.tables import metadata
from artstore.catalog.write import FileEntry, upsert_files
from artstore.contracts.elements import SNAPSHOT_KEY, Mode
from artstore.contracts.events import FILES_CHANNEL, Change, FileChanged
from artstore.contracts.files import Attributes
from artstore.contracts.tokens import Role
from artstore.database import SCHEMA_REVISION
from artstore.http.connections import Connections
from artstore.http.protocol import Connection
from artstore.testing.fakes import FakeAdmin, FakeElement, snapshot_of
from artstore.testing.services import PostgresServer, ValkeyServer
from artstore.testing.tokens import Signer

DEADLINE_S = 120


@dataclass
class Rig:
    """The client, the neighbouring processes and the module's own context."""

    client: httpx.AsyncClient
    context: Context
    engine: AsyncEngine
    redis: Redis
    signer: Signer
    first: FakeElement
    second: FakeElement

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.client.get(path, headers=headers)

    async def note(self, *files: Attributes, saga_id: str | None = None, change: Change = "put") -> None:
        """Writes the catalog as an element or admin does, without announcing a change."""
        async with self.engine.begin() as connection:
            await upsert_files(connection, [FileEntry(attributes, change, saga_id) for attributes in files])

    async def index(self) -> None:
        """Indexes what is noted, as admin does. Changes become visible when older transactions have ended."""

        async def up_to_date() -> bool:
            await update_index(self.context.database)
            return not await is_behind(self.context.database)

        await until(up_to_date)

    async def catalog(self) -> list[str]:
        async with self.engine.begin() as connection:
            return [row[0] for row in await connection.execute(text("SELECT file_id::text FROM files"))]

    async def announce(self, attributes: Attributes, change: Change) -> None:
        event = FileChanged(
            file_id=attributes.file_id,
            revision=attributes.revision,
            change=change,
            storage_element_id=attributes.storage_element_id,
        )
        await self.redis.publish(FILES_CHANNEL, msgspec.json.encode(event))

    async def source(self, attributes: Attributes) -> str:
        answer = await self.get(f"/api/files/{attributes.file_id}")
        assert answer.status_code == 200, answer.text
        return answer.headers["x-artstore-source"]


async def until(holds: Callable[[], Awaitable[Any]] | Callable[[], Any]) -> None:
    """Waits for a state that other tasks bring about."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            found = holds()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.sleep(0.01)


class _Server(uvicorn.Server):
    """Leaves the signals to pytest."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def running(
    postgres: PostgresServer, valkey: ValkeyServer, signer: Signer, **settings: Any
) -> AsyncIterator[Rig]:
    database = postgres.url(await postgres.new_database())
    engine = create_async_engine(database)
    redis = Redis.from_url(valkey.url(), decode_responses=True)
    await redis.flushall()
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        await connection.execute(text("CREATE TABLE alembic_version (version_num text)"))
        await connection.execute(text("INSERT INTO alembic_version VALUES (:at)"), {"at": SCHEMA_REVISION})
    admin = FakeAdmin(signer)
    first, second = (FakeElement(name, Mode.EDIT) for name in ("se-01", "se-02"))
    admin.elements = [first.entry(), second.entry()]
    await redis.set(SNAPSHOT_KEY, msgspec.json.encode(snapshot_of(first, second)))
    listening = Socket()
    listening.bind(("127.0.0.1", 0))
    port: int = listening.getsockname()[1]
    own = {
        "port": port,
        "database_url": database,
        "redis_url": valkey.url(),
        "admin_url": admin.url,
        "service_client_id": "query",
        "service_client_secret": secrets.token_hex(32),
        "database_pool_size": 5,
        **settings,
    }
    app = create_app(Settings(**own))
    config = uvicorn.Config(
        app,
        http=partial(Connection, open_connections=Connections(100)),  # type: ignore[arg-type]  # as the service does
        lifespan="on",
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)
    async with admin.running(), first.running(), second.running():
        serving = asyncio.create_task(server.serve([listening]))
        authorization = {"authorization": f"Bearer {signer.token(Role.READONLY)}"}
        try:
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", headers=authorization, timeout=120
            ) as client:
                await until(lambda: server.started or serving.done())
                if serving.done():
                    serving.result()
                context: Context = app.state.context
                await until(lambda: context.invalidation.subscribed)
                await until(lambda: _is_ready(client))
                yield Rig(client, context, engine, redis, signer, first, second)
        finally:
            server.should_exit = True
            await serving
            await redis.aclose()
            await engine.dispose()
            listening.close()


async def _is_ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/health/ready")).status_code == 200
