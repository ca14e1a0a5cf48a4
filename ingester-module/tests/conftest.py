"""A running ingester with fake neighbours and a real PostgreSQL and Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
import pytest
import uvicorn
from fastapi import FastAPI
from orjson import dumps
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.core.config import Settings
from app.core.context import Context
from app.main import create_app
from artstore.catalog.tables import metadata
from artstore.contracts.elements import Mode
from artstore.contracts.idempotency import Answer as KeptAnswer
from artstore.contracts.tokens import Role
from artstore.database import SCHEMA_REVISION
from artstore.testing.fakes import FakeAdmin, FakeElement
from artstore.testing.fixtures import postgres, servers_folder, signer, valkey
from artstore.testing.services import PostgresServer, ValkeyServer
from artstore.testing.tokens import Signer

__all__ = ["postgres", "servers_folder", "signer", "valkey"]


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    json: Any


@dataclass
class Fleet:
    """The ingester under test and its neighbours."""

    url: str
    admin: FakeAdmin
    elements: list[FakeElement]
    session: aiohttp.ClientSession
    context: Context
    database_url: str

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        async with self.session.request(method, self.url + path, **options) as response:
            body = await response.read()
            is_json = "json" in response.headers.get("content-type", "")
            return Answer(
                response.status,
                {name.lower(): value for name, value in response.headers.items()},
                body,
                await response.json(content_type=None) if is_json else None,
            )

    async def know(self, *entries: Any) -> None:
        """Gives the ingester exactly these elements, through admin."""
        self.admin.elements = list(entries) or [element.entry() for element in self.elements]
        await self.context.discovery._ask_admin()

    async def settled(self, aborts: int) -> None:
        """Waits for aborts, which continue after the answer."""
        async with asyncio.timeout(120):
            while len(self.admin.aborted) < aborts:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[str]:
    """The base URL of the app, which uvicorn serves in this process."""
    config = uvicorn.Config(
        app, port=0, log_config=None, ws="none", timeout_keep_alive=75, timeout_graceful_shutdown=1, access_log=False
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        if serving.done():
            serving.result()
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


@pytest.fixture(scope="session")
async def running(postgres: PostgresServer, valkey: ValkeyServer, signer: Signer) -> AsyncIterator[Fleet]:
    database_url = postgres.url(await postgres.new_database())
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        await connection.execute(text("CREATE TABLE alembic_version (version_num text)"))
        await connection.execute(text(f"INSERT INTO alembic_version VALUES ('{SCHEMA_REVISION}')"))
    admin = FakeAdmin(signer, partial(keep_answer, engine))
    elements = [
        FakeElement("se-01", Mode.EDIT),
        FakeElement("se-02", priority=1),
        FakeElement("se-03", priority=2),
    ]
    async with AsyncExitStack() as stack:
        for fake in (admin, *elements):
            await stack.enter_async_context(fake.running())
        settings = Settings(
            port=1,
            database_url=SecretStr(database_url),
            redis_url=SecretStr(valkey.url()),
            admin_url=admin.url,
            service_client_id="ingester",
            service_client_secret=SecretStr("x" * 43),
            max_file_size_bytes=8 * 2**20,
            body_idle_timeout_s=1,
            element_idle_timeout_s=1,
            element_call_timeout_s=1,
            idempotency_lease_s=1,
            database_command_timeout_s=120,
        )
        app = create_app(settings)
        url = await stack.enter_async_context(served(app))
        session = await stack.enter_async_context(
            aiohttp.ClientSession(headers={"authorization": f"Bearer {signer.token(Role.USER)}"})
        )
        yield Fleet(url, admin, elements, session, app.state.context, database_url)
    await engine.dispose()


async def keep_answer(engine: AsyncEngine, saga_id: str, answer: KeptAnswer) -> bool:
    """Does what admin does in its transaction."""
    statement = text(
        """UPDATE idempotency_keys SET status = :status, headers = CAST(:headers AS jsonb), body = :body
        WHERE saga_id = CAST(:saga_id AS uuid) RETURNING 1"""
    )
    values = {"saga_id": saga_id, "status": answer.status, "headers": dumps(answer.headers).decode()}
    async with engine.begin() as connection:
        return (await connection.execute(statement, {**values, "body": answer.body})).first() is not None


@pytest.fixture
async def fleet(running: Fleet) -> Fleet:
    """All neighbours are healthy and empty, and no breaker is open."""
    running.admin.reset()
    for element in running.elements:
        element.reset()
        running.context.elements._peer(element.entry()).breaker.heal()
    running.context.sagas._admin.breaker.heal()
    await running.know()
    return running
