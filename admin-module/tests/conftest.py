"""A real admin process on a real PostgreSQL and Valkey; each test folder that asks for `admin` shares one."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import jwt
import pytest
from redis.asyncio import Redis

from artstore.testing.fixtures import postgres, servers_folder, valkey
from artstore.testing.preloaded import Forked
from artstore.testing.preloaded import run as run_forked
from artstore.testing.preloaded import start as start_forked
from artstore.testing.services import PostgresServer, ValkeyServer, free_port

__all__ = ["postgres", "servers_folder", "valkey"]

MODULE = Path(__file__).parent.parent
SHARED = MODULE.parent / "shared"
SECRETS = {name: name[0] * 43 for name in ("boss", "se-01", "se-02", "ingester", "watcher", "reader", "leaver")}
ACCOUNTS: list[dict[str, Any]] = [
    {"client_id": "boss", "role": "ADMIN"},
    {"client_id": "se-01", "role": "SERVICE", "permissions": ["elements:report"]},
    {"client_id": "se-02", "role": "SERVICE", "permissions": ["elements:report"]},
    {
        "client_id": "ingester",
        "role": "SERVICE",
        "permissions": ["storage:read", "storage:write", "sagas:write", "elements:read"],
    },
    {"client_id": "watcher", "role": "AUDITOR"},
    {"client_id": "reader", "role": "READONLY"},
    {"client_id": "leaver", "role": "READONLY"},
]


@dataclass(slots=True)
class Admin:
    """One admin process with a client, and direct access to its database and Redis."""

    url: str
    database_url: str
    redis: Redis
    client: httpx.AsyncClient
    environment: dict[str, str]
    process: Forked
    tokens: dict[str, str] = field(default_factory=dict)

    async def token(self, client_id: str) -> str:
        if client_id not in self.tokens:
            credentials = {"client_id": client_id, "client_secret": SECRETS[client_id]}
            answer = await self.client.post("/api/auth/token", json=credentials)
            self.tokens[client_id] = answer.json()["access_token"]
        return self.tokens[client_id]

    async def account_id(self, client_id: str) -> str:
        """The `sub` of its tokens."""
        claims = jwt.decode(await self.token(client_id), options={"verify_signature": False})
        return str(claims["sub"])

    async def call(self, method: str, path: str, *, by: str = "boss", **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {await self.token(by)}", **options.pop("headers", {})}
        return await self.client.request(method, path, headers=headers, **options)

    async def sql(self, statement: str, *values: Any) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.database_url.replace("+asyncpg", ""))
        try:
            return list(await connection.fetch(statement, *values))
        finally:
            await connection.close()


def environment(database_url: str, redis_url: str, folder: Path, **more: str) -> dict[str, str]:
    accounts = folder / "accounts.json"
    accounts.write_text(json.dumps([{**one, "client_secret": SECRETS[one["client_id"]]} for one in ACCOUNTS]))
    accounts.chmod(0o600)
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{MODULE}{os.pathsep}{SHARED}",
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "KEY_ENCRYPTION_KEY": base64.b64encode(os.urandom(32)).decode(),
        "SECRET_HASH_KEY": base64.b64encode(os.urandom(32)).decode(),
        "BOOTSTRAP_ACCOUNTS_FILE": str(accounts),
        "RATE_LIMIT_PER_MINUTE": "1000000",  # tests look again and again
        "RATE_LIMIT_BURST": "1000000",
        **more,
    }


Start = Callable[[dict[str, str]], Any]


@contextmanager
def started() -> Iterator[Start]:
    """Starts admin processes with the environment given; ends them all."""
    running: list[Forked] = []

    def start_one(given: dict[str, str]) -> tuple[str, Forked]:
        port = free_port()
        with open(os.devnull, "wb") as nowhere:
            process = start_forked(MODULE, {**given, "PORT": str(port)}, nowhere, nowhere)
        running.append(process)
        return f"http://127.0.0.1:{port}", process

    yield start_one
    for process in running:
        process.terminate()
    for process in running:
        process.wait(120)


@pytest.fixture
def start() -> Iterator[Start]:
    """Admins of one test. They are ended with it, because their periodic tasks would disturb the next test."""
    with started() as start_one:
        yield start_one


@pytest.fixture(scope="module")
def start_for_module() -> Iterator[Start]:
    with started() as start_one:
        yield start_one


@pytest.fixture(scope="session")
def given_environment() -> Callable[..., dict[str, str]]:
    return environment


@pytest.fixture
def run() -> Callable[[dict[str, str]], subprocess.CompletedProcess[str]]:
    """Runs an admin that is expected to end on its own."""
    return partial(run_forked, MODULE)


async def until_ready(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(120):
        while True:
            try:
                if (await client.get("/health/ready")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)


@pytest.fixture(scope="session")
async def admin(
    postgres: PostgresServer, valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Admin]:
    database_url = postgres.url(await postgres.new_database())
    given = environment(database_url, valkey.url(), tmp_path_factory.mktemp("admin"))
    with started() as start_one:
        url, process = start_one(given)
        redis = Redis.from_url(valkey.url(), decode_responses=True)
        async with httpx.AsyncClient(base_url=url, timeout=120) as client:
            await until_ready(client)
            yield Admin(url, database_url, redis, client, given, process)
        await redis.aclose()


@pytest.fixture(scope="session")
def eventually() -> Callable[[Callable[[], Any]], Any]:
    """Repeats a question until its answer is true, for at most two minutes. Returns the answer."""

    async def ask(question: Callable[[], Any]) -> Any:
        async with asyncio.timeout(120):
            while not (answer := await question()):
                await asyncio.sleep(0.05)
        return answer

    return ask


@pytest.fixture
def second_admin(admin: Admin, start: Start) -> Callable[..., Any]:
    """Starts another admin on the same database and Redis, with the settings given changed."""

    async def another(**more: str) -> httpx.AsyncClient:
        url, _ = start({**admin.environment, **more})
        client = httpx.AsyncClient(base_url=url, timeout=120)
        await until_ready(client)
        return client

    return another


@pytest.fixture
async def own_admin(
    postgres: PostgresServer, valkey: ValkeyServer, tmp_path: Path, start: Start
) -> AsyncIterator[Callable[..., Any]]:
    """Starts an admin on a database of the test, or another one there after the first has died."""
    database_url = postgres.url(await postgres.new_database())
    redis = Redis.from_url(valkey.url(6), decode_responses=True)
    await redis.flushdb()
    given = environment(database_url, valkey.url(6), tmp_path, AUDIT_FOLDER=str(tmp_path / "audit"))
    clients: list[httpx.AsyncClient] = []

    async def run(**settings: str) -> Admin:
        url, process = start({**given, **settings})
        clients.append(httpx.AsyncClient(base_url=url, timeout=120))
        await until_ready(clients[-1])
        return Admin(url, database_url, redis, clients[-1], given, process)

    yield run
    for client in clients:
        await client.aclose()
    await redis.aclose()
