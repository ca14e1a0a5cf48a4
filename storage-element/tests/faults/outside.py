"""The invariants checked on a real element over HTTP, with its real catalog."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from urllib.parse import urlsplit

import asyncpg

from artstore.contracts.elements import Mode

from ..running import Answer, Neighbours, RunningElement, eventually, put_headers
from .invariants import check_invariants
from .journal import State, state_of

OPEN = re.compile(r"^(wal_open_intents|element_unsettled_files) (\S+)$", re.MULTILINE)


async def check_element(
    element: RunningElement,
    neighbours: Neighbours,
    allowed: Mapping[str, Sequence[State]],
    mode_before: Mode | None = None,
) -> dict[str, State]:
    """Waits until nothing is open any more."""

    async def settled() -> bool:
        return await open_intents(element) == 0

    await eventually(settled)
    return check_invariants(
        element.root,
        allowed=allowed,
        catalog=await rows_of(neighbours),
        open_intents=await open_intents(element),
        mode_before=mode_before,
    )


async def open_intents(element: RunningElement) -> int:
    found = OPEN.findall((await element.ask("GET", "/metrics")).body.decode())
    assert len(found) == 2, found
    return sum(int(float(value)) for _, value in found)


async def rows_of(neighbours: Neighbours) -> dict[str, int]:
    connection = await asyncpg.connect(neighbours.database_url.replace("+asyncpg", ""))
    try:
        rows = await connection.fetch("SELECT file_id::text, revision FROM files WHERE storage_element_id = 'se-01'")
    finally:
        await connection.close()
    return {row[0]: row[1] for row in rows}


def stored(answer: Answer, content: bytes) -> tuple[str, State]:
    """A file's id and state by what the element answered."""
    assert answer.status in (200, 201), answer.body
    return answer.json["file_id"], state_of(content, answer.json["revision"])


class Sender:
    """An upload by hand: headers first, and of the body what the test wants, when it wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def status(self, timeout_s: float = 120) -> int:
        """The status of the answer, whenever it comes."""
        async with asyncio.timeout(timeout_s):
            return int((await self._reader.readline()).split()[1])

    def close(self) -> None:
        self._writer.close()


async def begin_put(element: RunningElement, file_id: str, saga_id: str, size_bytes: int | None) -> Sender:
    """`size_bytes` None: a body of unknown length, to be sent as chunks."""
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(element.url).port)
    length = "transfer-encoding: chunked" if size_bytes is None else f"content-length: {size_bytes}"
    headers = {**put_headers(saga_id), "authorization": element.session.headers["authorization"], "host": "element"}
    lines = [f"PUT /api/files/{file_id} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), length]
    sender = Sender(reader, writer)
    await sender.send("\r\n".join([*lines, "", ""]).encode())
    return sender


async def pieces_of(content: bytes, gate: asyncio.Event, before: int) -> AsyncIterator[bytes]:
    """`before` bytes at once, the rest when the gate opens."""
    yield content[:before]
    await gate.wait()
    yield content[before:]
