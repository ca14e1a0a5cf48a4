"""An element as a process, and how a test speaks to it."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec

from artstore.clock import uuid7
from artstore.contracts.storage import NEW_FILE_HEADER, SAGA_HEADER, encode_new_file
from artstore.contracts.tokens import Permission, Role
from artstore.testing.fakes import FakeAdmin
from artstore.testing.preloaded import Forked, start
from artstore.testing.services import free_port

from .store.support import new_file

T = TypeVar("T")

MODULE = Path(__file__).parents[1]
START_TIMEOUT_S = 120
CALLER = frozenset({Permission.STORAGE_READ, Permission.STORAGE_WRITE})


@dataclass(frozen=True)
class Neighbours:
    database_url: str
    redis_url: str
    admin: FakeAdmin


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


@dataclass
class RunningElement:
    """`ask` returns whatever the answer is; nothing raises for a status."""

    url: str
    port: int
    process: Forked
    session: aiohttp.ClientSession
    root: Path

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        async with self.session.request(method, self.url + path, **options) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, headers, await response.read())

    async def put(
        self, content: Any, *, file_id: str | None = None, saga_id: str | None = None, **headers: str
    ) -> Answer:
        return await self.ask(
            "PUT",
            f"/api/files/{file_id or uuid7()}",
            data=content,
            headers={**put_headers(saga_id or str(uuid7())), **headers},
        )

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(120)


def put_headers(saga_id: str) -> dict[str, str]:
    return {
        SAGA_HEADER: saga_id,
        NEW_FILE_HEADER: encode_new_file(new_file()),
        "content-type": "application/octet-stream",
    }


def environment(neighbours: Neighbours, root: Path, port: int, **settings: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return {
        **kept,
        "PORT": str(port),
        "LOG_FORMAT": "text",
        "DATABASE_URL": neighbours.database_url,
        "REDIS_URL": neighbours.redis_url,
        "ADMIN_URL": neighbours.admin.url,
        "SERVICE_CLIENT_ID": "se-01",
        "SERVICE_CLIENT_SECRET": secrets.token_urlsafe(32),
        "STORAGE_ELEMENT_ID": "se-01",
        "STORAGE_MODE": "edit",
        "STORAGE_ROOT": str(root),
        "STORAGE_WAL_SEGMENT_BYTES": str(1 << 20),
        "STORAGE_RESERVE_BYTES": "1048576",
        "ELEMENT_URL": f"http://127.0.0.1:{port}",
        "OTEL_TRACES_SAMPLER_ARG": "0",
        **settings,
    }


def start_process(env: dict[str, str], log: Path) -> Forked:
    with log.open("ab") as out:
        return start(MODULE, env, out, out)


class EndedAtStart(Exception):
    """The process ended before it was ready: (exit status, the end of its log)."""


@asynccontextmanager
async def running_element(neighbours: Neighbours, root: Path, **settings: str) -> AsyncIterator[RunningElement]:
    """Ready when given, stopped at the end if it still runs."""
    port = free_port()
    log = root.with_suffix(".log")
    process = start_process(environment(neighbours, root, port, **settings), log)
    token = neighbours.admin.signer.token(Role.SERVICE, CALLER)
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {token}"}) as session:
        element = RunningElement(f"http://127.0.0.1:{port}", port, process, session, root)
        try:
            await _ready(element, log)
            yield element
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                element.stop()


async def _ready(element: RunningElement, log: Path) -> None:
    async with asyncio.timeout(START_TIMEOUT_S):
        while True:
            if element.process.poll() is not None:
                raise EndedAtStart(element.process.returncode, log.read_text()[-2000:])
            try:
                if (await element.ask("GET", "/health/ready")).status == 200:
                    return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.02)


async def eventually(ask: Callable[[], Awaitable[T | None]], timeout_s: float = 60) -> T:
    """The first answer that is not false. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not (answer := await ask()):
            await asyncio.sleep(0.05)
        return answer
