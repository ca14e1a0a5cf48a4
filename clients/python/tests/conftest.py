"""One system for all tests, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from support.system import System, own_system

from artstore_client import Client


class Routes(httpx.AsyncHTTPTransport):
    """Sends each request to its service, as the gateway does."""

    def __init__(self, system: System) -> None:
        super().__init__(limits=httpx.Limits(max_connections=100))
        self._system = system

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path, read = request.url.path, request.method in ("GET", "HEAD")
        if path.startswith(("/api/sagas/", "/api/uploads")):
            service = "ingester"
        elif path.startswith(("/api/files", "/api/changes", "/api/links")):
            service = "query" if read or path.endswith("/links") else "ingester"
        else:
            service = "admin"
        request.url = httpx.URL(self._system.url(service)).copy_with(raw_path=request.url.raw_path)
        return await super().handle_async_request(request)


@pytest.fixture(scope="session")
def system() -> Iterator[System]:
    with own_system(TRUSTED_PROXIES="127.0.0.1", RATE_PER_MINUTE="100000", RATE_BURST="100000") as started:
        yield started


@pytest.fixture(scope="session")
def connect(system: System) -> Callable[..., Client]:
    """Makes a client of the system, as ADMIN unless options say otherwise."""

    def made(**options: Any) -> Client:
        named = {"token", "client_id"} & options.keys()
        given = {**({} if named else system.credentials()), "transport": Routes(system), **options}
        return Client("http://store.example", **given)

    return made


@pytest.fixture
async def store(connect: Callable[..., Client]) -> AsyncIterator[Client]:
    async with connect() as opened:
        yield opened
