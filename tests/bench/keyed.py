"""Measures what an Idempotency-Key costs an upload: `python -m bench.keyed [UPLOADS] [CONCURRENCY]`.

The figure is the CPU time of a whole fleet. A request without a key must cost what it did before there were keys:
run this at both commits.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import statistics
import sys
from pathlib import Path

import aiohttp
from support.fleet import Fleet, running_fleet

ROUNDS = 5
BYTES = 4096
SERVICES = ("ingester", "se-02", "admin-1")


def cpu_s(fleet: Fleet, name: str) -> float:
    fields = Path(f"/proc/{fleet.processes[name].pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def upload(url: str, token: str, uploads: int, concurrency: int, keyed: bool) -> None:
    body, left = os.urandom(BYTES), iter(range(uploads))
    headers = {"authorization": f"Bearer {token}", "content-type": "application/octet-stream"}
    async with aiohttp.ClientSession(headers=headers) as session:

        async def one_after_the_other() -> None:
            for _ in left:
                key = {"idempotency-key": secrets.token_hex(8)} if keyed else {}
                async with session.post(f"{url}/api/files/upload?filename=a", data=body, headers=key) as answer:
                    assert answer.status == 201, await answer.text()

        await asyncio.gather(*(one_after_the_other() for _ in range(concurrency)))


def main(uploads: int = 1200, concurrency: int = 16) -> None:
    with running_fleet() as fleet:
        used: dict[tuple[str, bool], list[float]] = {}
        for _ in range(ROUNDS):
            for keyed in (False, True):
                before = {name: cpu_s(fleet, name) for name in SERVICES}
                asyncio.run(upload(fleet.url("ingester"), fleet.token(), uploads, concurrency, keyed))
                for name in SERVICES:
                    used.setdefault((name, keyed), []).append((cpu_s(fleet, name) - before[name]) / uploads)
    for (name, keyed), rounds in sorted(used.items()):
        print(
            f"{name} {'with' if keyed else 'without'} a key: {statistics.median(rounds) * 1000:.2f} ms of CPU an upload"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
