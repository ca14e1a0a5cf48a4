#!/usr/bin/env python3
"""The CPU that a call to another service costs the caller: `PYTHONPATH=. python bench/peers.py [CALLS]`, in the folder
`shared`. Beside it the same request through a bare aiohttp session, to the same server in another process.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from socket import create_connection
from typing import Any

import aiohttp
import uvicorn
import uvloop
from prometheus_client import CollectorRegistry

from artstore.logs import request_id
from artstore.peers.breaker import Breakers
from artstore.peers.session import open_peers
from artstore.testing.services import free_port

AT_ONCE = 16
BODY = bytes(4096)
ANSWER = b"{" + b" " * 398 + b"}"


class _Token:
    async def __call__(self) -> str:
        return "t" * 900

    def invalidate(self, token: str) -> None: ...


async def _app(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-length", b"400"), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})


def _serve(port: int) -> None:
    uvicorn.run(
        _app,
        port=port,
        lifespan="off",
        log_config=None,
        access_log=False,
        loop="uvloop",
        http="httptools",
        timeout_keep_alive=75,
    )


async def _chunks() -> AsyncIterator[bytes]:
    yield BODY


async def _measure(call: Callable[[], Awaitable[object]], calls: int) -> float:
    """CPU of this process per call, in µs."""

    async def repeat() -> None:
        for _ in range(calls // AT_ONCE):
            await call()

    began_s = time.process_time()
    await asyncio.gather(*(repeat() for _ in range(AT_ONCE)))
    return (time.process_time() - began_s) / (calls // AT_ONCE * AT_ONCE) * 1e6


async def _run(port: int, calls: int) -> dict[str, float]:
    request_id.set("0199e3a0-0000-7000-8000-000000000000")
    async with (
        open_peers(Breakers(CollectorRegistry()), lambda _: _Token()) as peers,
        aiohttp.ClientSession(skip_auto_headers=["Accept-Encoding", "User-Agent"]) as session,
    ):
        url = f"http://127.0.0.1:{port}"
        peer = peers.to("element", url)
        headers = {"authorization": "Bearer " + "t" * 900, "content-type": "application/json"}

        async def bare() -> None:
            async with session.post(f"{url}/api/sagas/commit", data=BODY, headers=headers) as response:
                await response.read()

        ways = {
            "bare": bare,
            "call": lambda: peer.call("POST", "/api/sagas/commit", body=BODY, timeout_s=5),
            "upload": lambda: peer.upload(
                "PUT",
                "/api/files/x",
                chunks=_chunks(),
                size_bytes=len(BODY),
                headers={"x-artstore-saga": "x"},
                idle_timeout_s=30,
            ),
        }
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(5):
            for name, way in ways.items():
                found[name].append(await _measure(way, calls))
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    port = free_port()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(port,), daemon=True)
    server.start()
    while True:
        try:
            create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            time.sleep(0.05)
    for name, cpu_us in uvloop.run(_run(port, int(sys.argv[1]) if len(sys.argv) > 1 else 2000)).items():
        sys.stdout.write(f"{name}: {cpu_us:.0f} µs of CPU\n")
    server.terminate()


if __name__ == "__main__":
    main()
