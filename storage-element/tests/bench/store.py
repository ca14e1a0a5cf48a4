"""Durable puts of the store alone beside bare files, in turn, in the module folder: python -m tests.bench.store FOLDER [ROUNDS].

FOLDER is created and should be on the disk in question; it is left there, since deleting many files slows ext4's next creates.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import uvloop

from app.store.put import PutOrder, put
from app.store.receive import Body
from app.store.store import Store
from artstore.clock import uuid7
from tests.store.support import body_of, new_file, opened

SMALL_BYTES = 4096
GIB = 1 << 30
MANY = 64
BARE_FILES, PUTS_ALONE, PUTS_AT_ONCE = 1000, 2000, 16_000


@dataclass(frozen=True, slots=True)
class Timed:
    """`rate` per second; `cpu_us` of this process for each."""

    rate: float
    cpu_us: float


class Stopwatch:
    def __init__(self) -> None:
        self._wall_s, self._cpu_s = time.perf_counter(), time.process_time()

    def stop(self, amount: float) -> Timed:
        wall_s, cpu_s = time.perf_counter() - self._wall_s, time.process_time() - self._cpu_s
        return Timed(amount / wall_s, cpu_s / amount * 1e6)


async def small_puts(store: Store, at_once: int, total: int) -> Timed:
    bodies = [os.urandom(SMALL_BYTES) for _ in range(256)]
    orders: Iterator[PutOrder] = iter([PutOrder(str(uuid7()), new_file(), str(uuid7())) for _ in range(total)])

    async def one_client() -> None:
        for number, order in enumerate(orders):
            await put(store, order, body_of(bodies[number % 256]))

    watch = Stopwatch()
    await asyncio.gather(*(one_client() for _ in range(at_once)))
    return watch.stop(total)


async def large_put(store: Store) -> Timed:
    """MB per second for 1 GiB, hash and sync included."""
    chunk = os.urandom(1 << 16)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(GIB // len(chunk)):
            yield chunk

    watch = Stopwatch()
    await put(store, PutOrder(str(uuid7()), new_file(), str(uuid7())), Body(chunks(), stated_bytes=GIB, max_bytes=GIB))
    return watch.stop(GIB / 1e6)


def bare_files(folder: Path, total: int) -> Timed:
    """create + fdatasync + rename + fsync of the folder, one after the other: what the disk gives without us."""
    folder.mkdir(parents=True)
    content = os.urandom(SMALL_BYTES)
    folder_fd = os.open(folder, os.O_RDONLY)
    watch = Stopwatch()
    for number in range(total):
        fd = os.open(folder / f"{number}.tmp", os.O_WRONLY | os.O_CREAT)
        os.write(fd, content)
        os.fdatasync(fd)
        os.close(fd)
        os.rename(folder / f"{number}.tmp", folder / f"{number}")
        os.fsync(folder_fd)
    os.close(folder_fd)
    return watch.stop(total)


def bare_large(path: Path) -> Timed:
    """1 GiB written in pieces of 1 MiB, then fdatasync: no hash."""
    piece = os.urandom(1 << 20)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    watch = Stopwatch()
    for _ in range(GIB // len(piece)):
        os.write(fd, piece)
    os.fdatasync(fd)
    os.close(fd)
    return watch.stop(GIB / 1e6)


async def run(root: Path, rounds: int) -> dict[str, list[Timed]]:
    found: dict[str, list[Timed]] = {}
    async with opened(root / "store", segment_bytes=32 << 20) as store:
        for number in range(rounds):
            found.setdefault("bare files, 4 KiB, one at a time", []).append(
                bare_files(root / f"bare-{number}", BARE_FILES)
            )
            found.setdefault("puts, 4 KiB, one at a time", []).append(await small_puts(store, 1, PUTS_ALONE))
            found.setdefault(f"puts, 4 KiB, {MANY} at once", []).append(await small_puts(store, MANY, PUTS_AT_ONCE))
        for number in range(rounds):
            found.setdefault("bare file, 1 GiB, MB", []).append(bare_large(root / f"large-{number}"))
            found.setdefault("put, 1 GiB, MB", []).append(await large_put(store))
    return found


def main() -> None:
    root, rounds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3
    root.mkdir(parents=True)
    found = uvloop.run(run(root, rounds))
    bare = 0.0
    for name, timed in found.items():
        rate = statistics.median(one.rate for one in timed)
        cpu_us = statistics.median(one.cpu_us for one in timed)
        bare = rate if name.startswith("bare") else bare
        rates = " ".join(f"{one.rate:.0f}" for one in timed)
        sys.stdout.write(f"{name}: {rate:.0f}/s ({rates}), {rate / bare:.2f} of bare, cpu {cpu_us:.0f} us\n")


if __name__ == "__main__":
    main()
