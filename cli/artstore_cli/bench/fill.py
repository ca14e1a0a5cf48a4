"""Stores the files that the rows read, on both sides, and lists their paths."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from artstore.local.ports import LOOPBACK

from ..errors import CommandError
from .sides import ArtStore, SeaweedFS

KIB, MIB = 1 << 10, 1 << 20
CONCURRENCY = 48
BINARY = {"Content-Type": "application/octet-stream"}
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_read=600)


@dataclass(frozen=True, slots=True)
class Paths:
    """The addresses of the files that are read, on one side."""

    small: str
    large: str
    big: str
    many: Sequence[Path]
    """For each round a file with one path a line, in random order: no earlier round has read these."""


def make_big_file(folder: Path, size_bytes: int) -> Path:
    """Random content, so that no side can compress it."""
    path = folder / "big"
    with path.open("wb") as file:
        for _ in range(size_bytes // MIB):
            file.write(os.urandom(MIB))
    return path


async def fill_artstore(artstore: ArtStore, folder: Path, big: Path, many: int, rounds: int) -> Paths:
    """Raises CommandError when it refuses a file."""
    url = f"http://{LOOPBACK}:{artstore.ingester_port}/api/files/upload?filename="
    token = await asyncio.to_thread(artstore.token)
    headers = {**BINARY, "Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers, timeout=TIMEOUT) as session:

        async def store(name: str, content: bytes | Path) -> str:
            answer = await _send(session, "POST", url + name, content)
            return f"/api/files/{(await answer.json())['file_id']}/content"

        return await _fill(store, folder / "our-paths", big, many, rounds)


async def fill_seaweedfs(seaweedfs: SeaweedFS, folder: Path, big: Path, many: int, rounds: int) -> Paths:
    """Raises CommandError when it refuses a file."""
    url = f"http://{LOOPBACK}:{seaweedfs.filer_port}"
    async with aiohttp.ClientSession(headers=BINARY, timeout=TIMEOUT) as session:

        async def store(name: str, content: bytes | Path) -> str:
            path = f"/read/{name}"
            await _send(session, "PUT", url + path, content)
            return path

        return await _fill(store, folder / "their-paths", big, many, rounds)


async def _send(session: aiohttp.ClientSession, method: str, url: str, content: bytes | Path) -> aiohttp.ClientResponse:
    body = content.open("rb") if isinstance(content, Path) else content
    try:
        async with session.request(method, url, data=body) as answer:
            text = await answer.text()  # also kept in the answer
    except (aiohttp.ClientError, TimeoutError) as error:
        raise CommandError(f"{method} {url}: {error}") from error
    if answer.status != 201:
        raise CommandError(f"{method} {url}: status {answer.status}: {text[:200]}")
    return answer


async def _fill(
    store: Callable[[str, bytes | Path], Awaitable[str]], lists: Path, big: Path, many: int, rounds: int
) -> Paths:
    content = os.urandom(4 * KIB)
    paths: list[str] = []
    numbers = iter(range(many))

    async def one_after_the_other() -> None:
        for number in numbers:
            path = await store(f"many-{number}", f"{number:<24}".encode() + content[24:])
            paths.append(path)

    await asyncio.gather(*(one_after_the_other() for _ in range(CONCURRENCY)))
    random.shuffle(paths)
    lists.mkdir()
    shares = [lists / f"round-{number}" for number in range(rounds)]
    for number, share in enumerate(shares):
        share.write_text("".join(f"{path}\n" for path in paths[number::rounds]))
    return Paths(
        small=await store("small", content),
        large=await store("large", os.urandom(MIB)),
        big=await store("big", big),
        many=shares,
    )
