from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import pytest
import uvloop

from artstore.http.output import UNSENT_BYTES, Output

from .test_content import app as answering
from .test_content import post, serving

SLOW_READERS = 10


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel")
def test_a_connection_that_has_closed_owes_nothing_and_raises_nothing() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the services do
        runner.run(_measure_a_closed_connection())


async def _measure_a_closed_connection() -> None:
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    output = Output(transport, loop, transport.close)
    output.write(b"x" * 1000)
    transport.abort()
    theirs.close()
    while ours.fileno() >= 0:
        await asyncio.sleep(0.01)
    assert output.pending_bytes() == 0
    output.wait_for_empty(True)
    output.wait_for_empty(False)


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel")
async def test_slow_readers_of_large_answers_hold_little_of_the_kernels_memory() -> None:
    """By itself the kernel takes 3 MB for each, and there may be thousands."""
    async with serving(answering) as port:
        readers = [await begin_slowly(port) for _ in range(SLOW_READERS)]
        for _ in range(40):  # what they take lets the kernel's buffers grow
            await asyncio.sleep(0.05)
            for reader in readers:
                take(reader)
        held = send_queues(port)
        for reader in readers:
            reader.close()
    assert len(held) == SLOW_READERS
    assert max(held) < 4 * UNSENT_BYTES


async def begin_slowly(port: int) -> socket.socket:
    reader = socket.socket()
    reader.setblocking(False)
    await asyncio.get_running_loop().sock_connect(reader, ("127.0.0.1", port))
    await asyncio.get_running_loop().sock_sendall(reader, post(method=b"GET", path=b"/?20000000"))
    return reader


def take(reader: socket.socket) -> None:
    try:
        reader.recv(20_000)
    except BlockingIOError:
        return


def send_queues(port: int) -> list[int]:
    """Bytes that the kernel holds for each connection that was accepted at the port."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    established = "01"
    at_port = [line for line in lines if int(line[1].partition(":")[2], 16) == port and line[3] == established]
    return [int(line[4].partition(":")[0], 16) for line in at_port]
