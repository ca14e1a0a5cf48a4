"""Durable puts of the store alone: python -m tests.bench.store FOLDER, from the module's folder."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import uvloop

from app.store.body import Body
from app.store.put import PutOrder, put
from artstore.clock import uuid7
from tests.store.support import new_file, opened, put_bytes

SMALL_BYTES = 4096
GIB = 1 << 30


async def small_puts(root: Path, at_once: int, total: int) -> float:
    """Puts per second."""
    bodies = [os.urandom(SMALL_BYTES) for _ in range(256)]
    async with opened(root, segment_bytes=32 << 20) as store:
        left = iter(range(total))

        async def one_client() -> None:
            for number in left:
                await put_bytes(store, bodies[number % 256])

        began_s = time.perf_counter()
        await asyncio.gather(*(one_client() for _ in range(at_once)))
        took_s = time.perf_counter() - began_s
        sys.stdout.write(f"  {total / store.wal.syncs:.1f} puts per sync, cpu {time.process_time():.1f} s" + "\n")
        return total / took_s


async def large_put(root: Path) -> float:
    """MB per second for 1 GiB, hash and sync included."""
    chunk = os.urandom(1 << 16)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(GIB // len(chunk)):
            yield chunk

    async with opened(root, segment_bytes=32 << 20) as store:
        began_s = time.perf_counter()
        body = Body(chunks(), stated_bytes=GIB, max_bytes=GIB)
        await put(store, PutOrder(str(uuid7()), new_file(), str(uuid7())), body)
        return GIB / 1e6 / (time.perf_counter() - began_s)


def bare_files(root: Path, total: int) -> float:
    """create + fdatasync + rename + fsync of the folder, one after the other: what the disk gives without us."""
    content = os.urandom(SMALL_BYTES)
    folder = os.open(root, os.O_RDONLY)
    began_s = time.perf_counter()
    for number in range(total):
        fd = os.open(root / f"{number}.tmp", os.O_WRONLY | os.O_CREAT)
        os.write(fd, content)
        os.fdatasync(fd)
        os.close(fd)
        os.rename(root / f"{number}.tmp", root / f"{number}")
        os.fsync(folder)
    return total / (time.perf_counter() - began_s)


def main() -> None:
    root = Path(sys.argv[1])
    runs: list[tuple[str, Callable[[Path], Awaitable[float]]]] = [
        ("4 KiB, 1 at once, puts/s", lambda folder: small_puts(folder, 1, 3000)),
        ("4 KiB, 64 at once, puts/s", lambda folder: small_puts(folder, 64, 30000)),
        ("1 GiB, MB/s", large_put),
    ]
    bare = root / "bare"
    bare.mkdir(parents=True)
    sys.stdout.write(f"bare files, 1 at once, files/s: {bare_files(bare, 2000):.0f}" + "\n")
    for number, (name, run) in enumerate(runs):
        sys.stdout.write(f"{name}: {uvloop.run(run(root / str(number))):.0f}" + "\n")


if __name__ == "__main__":
    main()
