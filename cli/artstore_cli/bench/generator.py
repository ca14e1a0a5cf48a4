"""The load generator for machines without wrk, as a process: reads its orders as JSON, prints what it saw as JSON.

One event loop on raw connections: a request is sent as bytes made beforehand, and of an answer only the status and the
length are read.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvloop

from artstore.local.ports import LOOPBACK

from .load import NAME

NAME_BYTES = 24
OK = (200, 201)
RECONNECT_PAUSE_S = 0.05


def requests(wanted: dict[str, Any]) -> Iterator[list[bytes]]:
    """The requests, each as the pieces to send. Ends only with a file of paths."""
    headers = "".join(f"{name}: {value}\r\n" for name, value in wanted["headers"].items())
    size: int = wanted["body_bytes"]
    length = f"Content-Length: {size}\r\n" if size else ""
    method, tail = wanted["method"], f" HTTP/1.1\r\nHost: {LOOPBACK}\r\n{headers}{length}\r\n"
    if wanted["paths"]:
        for path in Path(wanted["paths"]).read_text().split():
            yield [f"{method} {path}{tail}".encode()]
        return
    before, _, after = wanted["path"].partition(NAME)
    if not size:
        yield from itertools.repeat([f"{method} {before}{tail}".encode()])
    prefix, rest = secrets.token_hex(6), os.urandom(max(0, size - NAME_BYTES))
    for number in itertools.count():
        name = f"{prefix}-{number}"
        yield [f"{method} {before}{name}{after}{tail}".encode(), name.ljust(NAME_BYTES).encode(), rest]


class Run:
    """The state that all connections share. `finished` is set when the time is over or the requests are used up."""

    def __init__(self, wanted: dict[str, Any]) -> None:
        self.port: int = wanted["port"]
        self.left = requests(wanted)
        self.latencies_s: list[float] = []
        self.errors = 0
        self.open = 0
        self.finished = asyncio.Event()

    async def drive(self, concurrency: int, seconds: float) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        began_s, cpu_s = time.perf_counter(), time.process_time()
        self.open = concurrency
        workers = [loop.create_task(self._keep_connected()) for _ in range(concurrency)]
        try:
            await asyncio.wait_for(self.finished.wait(), seconds)
        except TimeoutError:
            self.finished.set()
        took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        ordered = sorted(self.latencies_s)
        return {
            "requests": len(ordered),
            "errors": self.errors,
            "seconds": took_s,
            "p50_ms": ordered[len(ordered) // 2] * 1e3 if ordered else 0.0,
            "p99_ms": ordered[len(ordered) * 99 // 100] * 1e3 if ordered else 0.0,
            "generator_cpu": cpu_s / took_s,
        }

    async def _keep_connected(self) -> None:
        """One connection; a broken one is an error and is opened again."""
        loop = asyncio.get_running_loop()
        while True:
            closed: asyncio.Future[bool] = loop.create_future()
            try:
                await loop.create_connection(partial(Connection, self, closed), LOOPBACK, self.port)
                used_up = await closed
            except OSError:
                used_up = False
            if used_up:
                self.open -= 1
                if not self.open:
                    self.finished.set()
                return
            self.errors += 1
            await asyncio.sleep(RECONNECT_PAUSE_S)


class Connection(asyncio.Protocol):
    """Sends one request after the other. `closed` gets True when no request is left."""

    def __init__(self, run: Run, closed: asyncio.Future[bool]) -> None:
        self._run, self._closed = run, closed
        self._head = b""
        self._left_bytes = 0
        self._ok = False
        self._sent_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._closed.done():
            self._closed.set_result(False)

    def _send(self) -> None:
        pieces = None if self._run.finished.is_set() else next(self._run.left, None)
        if pieces is None:
            self._closed.set_result(True)
            self._transport.abort()
            return
        self._sent_s = time.perf_counter()
        self._transport.writelines(pieces)

    def data_received(self, data: bytes) -> None:
        if not self._left_bytes:
            self._head += data
            head, end, body = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._head, data = b"", body
            self._ok = int(head[9:12]) in OK
            self._left_bytes = self._body_bytes(head)
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            self._transport.abort()  # an answer without a request, or without a length
        elif self._left_bytes == 0:
            if self._ok:
                self._run.latencies_s.append(time.perf_counter() - self._sent_s)
            else:
                self._run.errors += 1
            self._send()

    def _body_bytes(self, head: bytes) -> int:
        _, found, rest = head.lower().partition(b"\r\ncontent-length:")
        return int(rest.partition(b"\r\n")[0]) if found else -1


def main() -> None:
    wanted = json.load(sys.stdin)

    async def drive() -> dict[str, Any]:
        return await Run(wanted).drive(wanted["concurrency"], wanted["seconds"])

    seen = uvloop.run(drive())
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    main()
