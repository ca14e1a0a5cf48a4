from __future__ import annotations

import asyncio
import socket
import sys

import pytest
import uvloop

from artstore.http.output import Output


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
