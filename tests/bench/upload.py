"""CPU of one upload by process, and the rate: `python -m bench.upload [ROUNDS] [SECONDS]`, a whole fleet, 4 KiB bodies.

The load comes from this process, over one connection per concurrent upload, and its own CPU is printed too. Then the same
for each file of batches, which one client sends one after the other.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path

from support.fleet import Fleet, running_fleet

BODY_BYTES = 4096
CONCURRENCIES = (1, 16, 64)
BATCHES = (100, 1000)
SETTLE_S = 1.5
"""After a round: events of the outbox are published, and connections are idle."""
Load = Callable[[float], Coroutine[object, object, int]]
"""Uploads for some seconds, and returns the number of files."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def main(rounds: int = 3, seconds: float = 4) -> None:
    with running_fleet() as fleet:
        processes = _processes(fleet)
        asyncio.run(_load(fleet, 16, 2))  # connections, prepared statements, imports
        loads: dict[str, Load] = {f"{number} at once": partial(_load, fleet, number) for number in CONCURRENCIES}
        loads |= {f"batches of {number}": partial(_load_batches, fleet, number) for number in BATCHES}
        results: dict[str, list[dict[str, float]]] = {name: [] for name in loads}
        for _ in range(rounds):
            for name, load in loads.items():
                results[name].append(_round(processes, load, seconds))
        for name, taken in results.items():
            print(f"\n{name}: {statistics.median(one['rate'] for one in taken):.0f} files/s")
            services = [name for name in taken[0] if name not in ("rate", "load generator")]
            total = statistics.median(sum(one[name] for name in services) for one in taken)
            for name in services:
                print(f"  {name:<16}{statistics.median(one[name] for one in taken):7.0f} µs")
            print(f"  {'all':<16}{total:7.0f} µs (load generator: {taken[-1]['load generator']:.0f})", flush=True)


def _processes(fleet: Fleet) -> dict[str, Callable[[], float]]:
    named = {name: process.pid for name, process in fleet.processes.items()}
    cpu: dict[str, Callable[[], float]] = {name: lambda pid=pid: _cpu_s(pid) for name, pid in named.items()}  # type: ignore[misc]
    cpu["PostgreSQL"] = lambda: _tree_cpu_s(fleet.postgres.process.pid)
    cpu["Valkey"] = lambda: _tree_cpu_s(fleet.valkey.process.pid)
    cpu["load generator"] = time.process_time
    return cpu


def _round(processes: Mapping[str, Callable[[], float]], load: Load, seconds: float) -> dict[str, float]:
    """µs of CPU per upload by process, and the rate."""
    time.sleep(SETTLE_S)
    before = {name: cpu() for name, cpu in processes.items()}
    began_s = time.monotonic()
    uploads = asyncio.run(load(seconds))
    took_s = time.monotonic() - began_s
    used = {name: (cpu() - before[name]) / uploads * 1e6 for name, cpu in processes.items()}
    return {"rate": uploads / took_s, **used}


async def _load(fleet: Fleet, concurrency: int, seconds: float) -> int:
    head = (
        f"POST /api/files/upload?filename=a HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {fleet.token()}\r\n"
        f"content-type: application/octet-stream\r\ncontent-length: {BODY_BYTES}\r\n\r\n"
    )
    request = head.encode() + os.urandom(BODY_BYTES)
    until_s = time.monotonic() + seconds
    uploads = 0

    async def one_after_the_other() -> None:
        nonlocal uploads
        reader, writer = await asyncio.open_connection("127.0.0.1", fleet.ports["ingester"])
        while time.monotonic() < until_s:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 201"), answer
            length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            uploads += 1
        writer.close()

    await asyncio.gather(*(one_after_the_other() for _ in range(concurrency)))
    return uploads


async def _load_batches(fleet: Fleet, files: int, seconds: float) -> int:
    part = b'--X\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    body = b"".join(part + os.urandom(BODY_BYTES) + b"\r\n" for _ in range(files)) + b"--X--\r\n"
    head = (
        f"POST /api/files/batch HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {fleet.token()}\r\n"
        f"content-type: multipart/form-data; boundary=X\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    until_s = time.monotonic() + seconds
    uploads = 0
    reader, writer = await asyncio.open_connection("127.0.0.1", fleet.ports["ingester"], limit=1 << 24)
    while time.monotonic() < until_s:
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200"), answer
        length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        results = await reader.readexactly(length)
        assert results.count(b'"status":201') == files, results[:500]
        uploads += files
    writer.close()
    return uploads


def _tree_cpu_s(pid: int) -> float:
    """CPU of a server and its workers, with those that have ended."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return _cpu_s(pid, ended_children=True) + sum(_tree_cpu_s(int(child)) for child in children)


def _cpu_s(pid: int, *, ended_children: bool = False) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11 : 15 if ended_children else 13])) / _TICKS_PER_S


if __name__ == "__main__":
    main(*(convert(text) for convert, text in zip((int, float), sys.argv[1:], strict=False)))
