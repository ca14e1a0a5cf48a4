"""TCP proxies for fault tests: delay, slicing, black holes, resets and refusals, switched while they run.

A `Network` has its own thread and event loop, so blocking tests do not stop the traffic. A black hole delays
data and does not lose it, as TCP does: what was sent into one arrives when it ends.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Self, TypeVar

CHUNK_BYTES = 256 << 10
SLICE_PAUSE_S = 0.001
CONNECT_TIMEOUT_S = 5.0
CALL_TIMEOUT_S = 10.0
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with 0 s: the close sends RST instead of FIN."""

T = TypeVar("T")
Target = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Way:
    """The faults of one direction of a proxy."""

    delay_s: float = 0.0
    slice_bytes: int = 0
    """Forwards each read in pieces of at most this size, each a segment of its own; 0 disables it."""
    blackhole: bool = False
    """No data passes, and no end is notified."""


CLEAR = Way()


class Proxy:
    """A proxy in front of one or several targets. `up` is the direction to the target, `down` from it. The
    methods are thread-safe."""

    def __init__(self, network: Network, targets: Sequence[Target], chance: random.Random) -> None:
        self._network, self._targets, self._chance = network, tuple(targets), chance
        self._up, self._down, self._refusing = CLEAR, CLEAR, False
        self._changed = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server
        self.port = 0
        self.connections = 0

    def fault(self, *, up: Way = CLEAR, down: Way = CLEAR, refuse: bool = False) -> None:
        """Sets the faults, also for open connections, and replaces all earlier ones. `refuse` resets open and
        new connections."""
        self._network.call(self._set(up, down, refuse))

    def heal(self) -> None:
        self.fault()

    def lead_to(self, *targets: Target) -> None:
        """Changes the targets of new connections, as when a name gets another address."""
        self._targets = targets

    def reset(self) -> None:
        """Resets every open connection once."""
        self._network.call(self._reset())

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=CHUNK_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()
        await self._reset()

    async def _set(self, up: Way, down: Way, refuse: bool) -> None:
        self._up, self._down, self._refusing = up, down, refuse
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        if refuse:
            await self._reset()

    async def _reset(self) -> None:
        for writer in list(self._open):
            _abort(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        ends = [writer]
        self._open.add(writer)
        try:
            if self._refusing:
                raise ConnectionRefusedError
            from_target, to_target = await self._connect()
            ends.append(to_target)
            self._open.add(to_target)
            for end in ends:
                end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass_on(reader, to_target, lambda: self._up))
                both.create_task(self._pass_on(from_target, writer, lambda: self._down))
        except* OSError:
            for end in ends:
                _abort(end)
        finally:
            for end in ends:
                self._open.discard(end)
                end.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connects to a random target, and to the others if it refuses, as a load balancer does."""
        order = self._chance.sample(self._targets, len(self._targets))
        for host, port in order[:-1]:
            try:
                return await self._connect_to(host, port)
            except OSError:
                continue
        return await self._connect_to(*order[-1])

    async def _connect_to(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            return await asyncio.open_connection(host, port, limit=CHUNK_BYTES)

    async def _pass_on(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, way: Callable[[], Way]
    ) -> None:
        while chunk := await source.read(CHUNK_BYTES):
            if delay_s := way().delay_s:
                await asyncio.sleep(delay_s)
            await self._passable(way)
            size = way().slice_bytes or len(chunk)
            for start in range(0, len(chunk), size):
                target.write(chunk[start : start + size])
                await target.drain()
                if size < len(chunk):
                    await asyncio.sleep(SLICE_PAUSE_S)
                    await self._passable(way)
        await self._passable(way)
        target.write_eof()

    async def _passable(self, way: Callable[[], Way]) -> None:
        while way().blackhole:
            await self._changed.wait()


class Network:
    """The proxies of a test, closed at its end. `seed` decides which of several targets a connection goes to."""

    def __init__(self, seed: int = 0) -> None:
        self._chance = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._proxies: list[Proxy] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_TIMEOUT_S)
        self._loop.close()

    def proxy(self, *targets: Target) -> Proxy:
        """A proxy on a free port of 127.0.0.1. The targets need not be listening yet."""
        made = Proxy(self, targets, self._chance)
        self.call(made.open())
        self._proxies.append(made)
        return made

    def heal(self) -> None:
        for proxy in self._proxies:
            proxy.heal()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(CALL_TIMEOUT_S)

    async def _close(self) -> None:
        for proxy in self._proxies:
            await proxy.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def _abort(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
