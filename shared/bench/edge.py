#!/usr/bin/env python3
"""The CPU that a service spends on one small request: `PYTHONPATH=. python bench/edge.py [ROUNDS] [SECONDS]`, in
the folder `shared`.

Two servers take turns: `bare` is our connection class with an application of ten lines, `edge` a service with one
data route that answers the same bytes. The difference is the cost of the edge: request id, trace, head checks, limits,
token, permission, metrics, log line. Both run in processes of their own; their CPU is read from /proc (Linux).
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import create_connection
from typing import Any

import uvloop
from starlette.requests import Request
from starlette.responses import Response

from artstore.auth.keys import RemoteKeys
from artstore.auth.tokens import TokenVerifier
from artstore.config import ServiceSettings
from artstore.contracts.tokens import Audience, Role
from artstore.http.data_routes import DataRoute
from artstore.http.json import JsonResponse
from artstore.runtime import Runtime
from artstore.service import build_app, serve
from artstore.testing.services import free_port
from artstore.testing.tokens import Signer

CONNECTIONS = 64
PATH = "/api/files/0199e3a0-0000-7000-8000-000000000000"
BODY = b"{" + b" " * 398 + b"}"
"""As long as the attributes of a file."""
FIELDS = {"etag": '"1"', "cache-control": "private, no-cache", "x-artstore-source": "memory"}


@dataclass(frozen=True)
class _Context:
    verifier: TokenVerifier


@asynccontextmanager
async def _open_context(runtime: Runtime) -> AsyncIterator[_Context]:
    signer = Signer()

    async def fetch() -> bytes:
        return signer.jwks()

    _tell(signer.token(Role.USER))
    yield _Context(TokenVerifier(RemoteKeys([("bench", fetch)], None, runtime.clock), Audience.QUERY, runtime.clock))


def _tell(token: str) -> None:
    os.write(1, f"{token}\n".encode())  # sys.stdout is the log


async def _hello(_request: Request) -> Response:
    return JsonResponse(BODY, headers=FIELDS)


async def _bare(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


def _serve(kind: str, port: int) -> None:
    settings = ServiceSettings(port=port)
    app = build_app(
        audience=Audience.QUERY,
        title="bench",
        settings=settings,
        open_context=_open_context,
        data_routes=[DataRoute("/api/files/{file_id}", ["GET"], _hello, {"get": {"summary": "bench"}})],
    )
    edge: Any = app.middleware_stack

    async def bare(scope: Any, receive: Any, send: Any) -> None:
        await (_bare if scope["type"] == "http" else edge)(scope, receive, send)

    if kind == "bare":
        app.middleware_stack = bare
    serve(app, settings, "bench")


class _Client(asyncio.Protocol):
    """One connection that sends the request again and again, one at a time."""

    def __init__(self, request: bytes, counts: list[int]) -> None:
        self._request, self._counts, self._received = request, counts, b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._received.endswith(BODY):
            if not self._received.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(self._received[:200])
            self._received = b""
            self._counts[0] += 1
            self._transport.write(self._request)


@dataclass
class _Server:
    kind: str
    port: int
    process: subprocess.Popen[str]
    request: bytes

    @classmethod
    def start(cls, kind: str) -> _Server:
        port = free_port()
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, __file__, "serve", kind, str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        token = (process.stdout or sys.stdin).readline().strip()
        while True:
            try:
                create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        head = f"GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n\r\n"
        return cls(kind, port, process, head.encode())

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def measure(self, seconds: float) -> tuple[float, float]:
        """CPU in µs per request, and requests per second."""
        loop, counts = asyncio.get_running_loop(), [0]
        opened = [
            await loop.create_connection(lambda: _Client(self.request, counts), "127.0.0.1", self.port)
            for _ in range(CONNECTIONS)
        ]
        await asyncio.sleep(0.3)
        cpu_s, count, began_s = self.cpu_s(), counts[0], time.monotonic()
        await asyncio.sleep(seconds)
        cpu_s, count, took_s = self.cpu_s() - cpu_s, counts[0] - count, time.monotonic() - began_s
        for transport, _ in opened:
            transport.abort()
        return cpu_s / count * 1e6, count / took_s


def main() -> None:
    if sys.argv[1:2] == ["serve"]:
        _serve(sys.argv[2], int(sys.argv[3]))
        return
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 3
    servers = [_Server.start(kind) for kind in ("bare", "edge")]
    found: dict[str, list[tuple[float, float]]] = {server.kind: [] for server in servers}
    try:
        for _ in range(rounds):
            for server in servers:
                found[server.kind].append(uvloop.run(server.measure(seconds)))
    finally:
        for server in servers:
            server.process.terminate()
            server.process.wait()
    for kind, measured in found.items():
        cpu_us, rate = (statistics.median(column) for column in zip(*measured, strict=True))
        sys.stdout.write(f"{kind}: {cpu_us:.1f} µs of CPU, {rate:.0f}/s\n")


if __name__ == "__main__":
    main()
