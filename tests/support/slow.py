"""Clients that send or read slowly: plain sockets with a receive buffer of their own, paced by a schedule they catch up with."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

RECEIVE_BUFFER_BYTES = 8192
"""The kernel doubles it. Else it would take much of a body at once, and hide how slowly it is read."""
TICK_S = 0.1


def head(method: str, path: str, token: str, **fields: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {token}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode()


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    made.setblocking(False)
    parts = urlsplit(url)
    await asyncio.get_running_loop().sock_connect(made, (parts.hostname, parts.port))
    return await asyncio.open_connection(sock=made, limit=4096)


async def send(url: str, request: bytes, body: bytes, bytes_per_s: float) -> bytes:
    """The answer, whole; what of it came before the connection broke."""
    reader, writer = await connect(url)
    answer = asyncio.ensure_future(reader.read())
    loop = asyncio.get_running_loop()
    begun_s, sent = loop.time(), 0
    try:
        writer.write(request)
        while sent < len(body) and not answer.done():
            due = min(len(body), int((loop.time() - begun_s + TICK_S) * bytes_per_s))
            writer.write(body[sent:due])
            sent = due
            await asyncio.sleep(TICK_S)
        return await answer
    except ConnectionError:
        with contextlib.suppress(ConnectionError):
            return await answer
        return b""
    finally:
        writer.close()


async def read(url: str, request: bytes, bytes_per_s: float) -> bytes:
    """Head and body, as far as they came before the connection broke."""
    reader, writer = await connect(url)
    loop = asyncio.get_running_loop()
    got, begun_s = bytearray(), loop.time()
    try:
        writer.write(request)
        while True:
            due = int((loop.time() - begun_s + TICK_S) * bytes_per_s) - len(got)
            if due > 0:
                piece = await reader.read(due)
                if not piece:
                    return bytes(got)
                got += piece
            else:
                await asyncio.sleep(TICK_S)
    except ConnectionError:
        return bytes(got)
    finally:
        writer.close()


async def until_admitted(transfer: Callable[[], Awaitable[bytes]]) -> bytes:
    """Begin again, as a client should, while the service answers 503 (overloaded)."""
    while (answer := await transfer()).startswith(b"HTTP/1.1 503 "):
        await asyncio.sleep(1)
    return answer


@dataclass
class Crowd:
    """Slow transfers that go on until `end`."""

    tasks: list[asyncio.Task[bytes]] = field(default_factory=list)

    def begin(self, *transfers: Coroutine[Any, Any, bytes]) -> None:
        self.tasks += [asyncio.create_task(each) for each in transfers]

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
