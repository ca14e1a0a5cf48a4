"""Lets httpx see a refusal that arrives while it still sends a large body.

A service refuses an upload (401, 413, 429, 507 …) before it has read the body, and closes the connection. httpx reads
nothing while it sends, so what it would see is a connection reset, not the reason. httpcore goes on to read the answer
when a write fails: here a write fails as soon as there is something to read.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

LOOK_EVERY_S = 0.1
"""While a write waits for the other side to read."""


def see_early_answers(http: httpx.AsyncClient) -> None:
    """httpx offers no public way to this. With a version that is built differently nothing is changed: an early refusal
    of a large body may then be reported as ConnectionFailed."""
    pool = getattr(getattr(http, "_transport", None), "_pool", None)
    backend = getattr(pool, "_network_backend", None)
    if isinstance(backend, httpcore.AsyncNetworkBackend):
        pool._network_backend = _Backend(backend)  # type: ignore[union-attr]


class _Backend(httpcore.AsyncNetworkBackend):
    def __init__(self, backend: httpcore.AsyncNetworkBackend) -> None:
        self._backend = backend

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        stream = await self._backend.connect_tcp(host, port, timeout, local_address, socket_options)
        return _Stream(stream, watched=True)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        return await self._backend.connect_unix_socket(path, timeout, socket_options)

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)


class _Stream(httpcore.AsyncNetworkStream):
    """`watched`: what can be read is an answer. After the handshake of TLS 1.3 it may be session tickets, which are read
    together with the first answer."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, *, watched: bool) -> None:
        self._stream = stream
        self._watched = watched

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = await self._stream.read(max_bytes, timeout)
        self._watched = True
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not self._watched:
            return await self._stream.write(buffer, timeout)
        self._stop_if_answered()
        writing = asyncio.ensure_future(self._stream.write(buffer, timeout))
        try:
            while not (await asyncio.wait([writing], timeout=LOOK_EVERY_S))[0]:
                self._stop_if_answered()
            return writing.result()
        finally:
            if not writing.done():
                writing.cancel()
                await asyncio.wait([writing])

    def _stop_if_answered(self) -> None:
        if self._stream.get_extra_info("is_readable"):
            raise httpcore.WriteError("the answer has arrived before the end of the request")

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        return _Stream(await self._stream.start_tls(ssl_context, server_hostname, timeout), watched=False)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
