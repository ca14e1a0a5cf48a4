"""Lets httpx see a refusal that arrives while it still sends a large body.

A service refuses an upload (401, 413, 429, 507 …) before it has read the body, and closes the connection. httpx reads
nothing while it sends, so it would see a connection reset, not the reason. httpcore goes on to read the answer when a
write fails: here a write that waits fails as soon as an answer has arrived.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

PATIENCE_S = 0.1
"""A write that takes longer waits for the other side, which may have answered instead of reading."""
MAX_READ_BYTES = 64 * 1024


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
        return _Stream(stream)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        return await self._backend.connect_unix_socket(path, timeout, socket_options)

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)


class _Stream(httpcore.AsyncNetworkStream):
    """While a write waits for the other side to read, an answer is read beside it, and then ends the write."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._reading: asyncio.Task[bytes] | None = None
        """Begun beside a write; the next read takes its result."""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._reading is None:
            return await self._stream.read(max_bytes, timeout)
        done, _ = await asyncio.wait([self._reading], timeout=timeout)
        if not done:
            raise httpcore.ReadTimeout("no answer within the idle timeout")
        reading, self._reading = self._reading, None
        return reading.result()

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        writing = asyncio.ensure_future(self._stream.write(buffer, timeout))
        try:
            done, _ = await asyncio.wait([writing], timeout=PATIENCE_S)
            if not done:
                if self._reading is None:
                    self._reading = asyncio.ensure_future(self._stream.read(MAX_READ_BYTES))
                either: set[asyncio.Task[Any]] = {writing, self._reading}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if not writing.done():
                    raise httpcore.WriteError("the answer has arrived before the end of the request")
            return writing.result()
        finally:
            await _end(writing)

    async def aclose(self) -> None:
        if self._reading is not None:
            await _end(self._reading)
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        return _Stream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


async def _end(task: asyncio.Task[Any]) -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # retrieved, because nothing may wait for it
