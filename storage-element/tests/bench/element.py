"""4 KiB puts to an element as a process, with a real PostgreSQL: `python -m tests.bench.element FOLDER`, in the module folder.

Prints puts per second, their latency, and the CPU that the element took for each (the client and PostgreSQL not counted).
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import uvloop
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from artstore.catalog.tables import metadata
from artstore.clock import uuid7
from artstore.contracts.tokens import Role
from artstore.database import SCHEMA_REVISION
from artstore.testing.fakes import FakeAdmin
from artstore.testing.services import PostgresServer, ValkeyServer, start_postgres, start_valkey, temporary_folder
from artstore.testing.tokens import Signer

from ..running import CALLER, Neighbours, RunningElement, put_headers, running_element

SMALL_BYTES = 4096
RUNS = ((1, 500), (64, 5000))
"""Clients at once, and puts by all of them together."""


def requests(element: RunningElement, token: str, count: int) -> Iterator[bytes]:
    host = urlsplit(element.url).netloc
    for _ in range(count):
        fields = {**put_headers(str(uuid7())), "authorization": f"Bearer {token}", "host": host}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        yield f"PUT /api/files/{uuid7()} HTTP/1.1\r\n{head}content-length: {SMALL_BYTES}\r\n\r\n".encode() + os.urandom(
            SMALL_BYTES
        )


async def one_client(element: RunningElement, waiting: Iterator[bytes], took_s: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", element.port)
    for request in waiting:
        began_s = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 201"):
            raise RuntimeError(head.decode())
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        took_s.append(time.perf_counter() - began_s)
    writer.close()


async def measure(element: RunningElement, token: str, at_once: int, count: int) -> None:
    waiting, took_s = iter(list(requests(element, token, count))), list[float]()
    began_s, cpu_s = time.perf_counter(), cpu_of(element.process.pid)
    await asyncio.gather(*(one_client(element, waiting, took_s) for _ in range(at_once)))
    rate = count / (time.perf_counter() - began_s)
    cpu_us = (cpu_of(element.process.pid) - cpu_s) / count * 1e6
    p50_ms, p99_ms = (statistics.quantiles(took_s, n=100)[at] * 1e3 for at in (49, 98))
    sys.stdout.write(
        f"{at_once} at once: {rate:.0f}/s, p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms, cpu {cpu_us:.0f} us each\n"
    )


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def new_database(postgres: PostgresServer) -> str:
    url = postgres.url(await postgres.new_database())
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        await connection.execute(text("INSERT INTO registry (version) VALUES (1)"))
        await connection.execute(text("CREATE TABLE alembic_version (version_num text)"))
        await connection.execute(text("INSERT INTO alembic_version VALUES (:revision)"), {"revision": SCHEMA_REVISION})
    await engine.dispose()
    return url


async def run(root: Path, postgres: PostgresServer, valkey: ValkeyServer) -> None:
    signer = Signer()
    settings = {"STORAGE_WAL_SEGMENT_BYTES": str(32 << 20), "LOG_FORMAT": "json"}
    async with FakeAdmin(signer).running() as admin:
        neighbours = Neighbours(await new_database(postgres), valkey.url(), admin)
        async with running_element(neighbours, root, **settings) as element:
            token = signer.token(Role.SERVICE, CALLER)
            for at_once, count in (*RUNS, *RUNS):
                await measure(element, token, at_once, count)


def main() -> None:
    with temporary_folder("artstore-bench-") as folder:
        postgres, valkey = start_postgres(folder), start_valkey(folder)
        try:
            uvloop.run(run(Path(sys.argv[1]), postgres, valkey))
        finally:
            valkey.stop()
            postgres.discard()


if __name__ == "__main__":
    main()
