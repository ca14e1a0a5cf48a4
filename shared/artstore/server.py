"""The server of a service from its signal to its end: it drains, so that a stop costs no client a request.

The order of a stop: not ready; no connections are accepted any more; running requests end; those that take too
long are cut off, and undo what they began; the service is closed (`artstore.service.build_app`).
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import cast

import uvicorn

from artstore.http.connections import Connections
from artstore.http.protocol import Connection
from artstore.logs import get_logger
from artstore.tasks import until_tick, wait_or_timeout

log = get_logger("artstore.server")

DATE_EVERY_S = 1.0
"""How often the server renews the Date header of its responses."""
NOTICED_WITHIN_S = 2.0
"""While requests come, a stop accepts connections for this time: twice the interval in which the gateway asks
whether an instance is ready."""
QUIET_S = 0.1
"""Without a request for this time, a stop accepts no connections any more."""
FIRST_BYTES_S = 0.1
"""For a request that was sent before the connection was refused or closed."""
UNDO_S = 5.0
"""For requests that were cut off to undo what they began."""
POLL_S = 0.02


class Server(uvicorn.Server):
    """Returns from `run` after a signal. uvicorn would raise the signal again, which would end the process
    before its last steps. Wakes once per second instead of ten times, and at once when it is to stop.

    A second SIGTERM changes nothing. A SIGINT after the first signal ends the wait for running requests.
    """

    _stopping: asyncio.Event
    _loop: asyncio.AbstractEventLoop | None = None

    def __init__(self, config: uvicorn.Config, connections: Connections, stop_being_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._connections, self._stop_being_ready = connections, stop_being_ready

    async def main_loop(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        while not await self.on_tick(0):
            await wait_or_timeout(self._stopping, until_tick(DATE_EVERY_S))

    def stop(self) -> None:
        """May be called from a signal handler."""
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self.stop()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        limit_s = self.config.timeout_graceful_shutdown or 0
        deadline_s = time.monotonic() + limit_s
        # 1. Not ready, while connections are still accepted: a gateway chooses another instance.
        self._stop_being_ready()
        # Idle ones stay open meanwhile: a request that is on its way would be lost with its connection.
        self._connections.stopping = True
        for connection in self._open():
            connection.end_after_response()
        await self._wait_until_unused(min(deadline_s, time.monotonic() + NOTICED_WITHIN_S))
        # 2. No connections any more.
        for server in self.servers:
            server.close()
        for each in sockets or ():
            each.close()
        for connection in self._open():
            connection.shutdown()  # closes idle ones
        await asyncio.sleep(FIRST_BYTES_S)
        # 3. Running requests end.
        await self._wait_while(lambda: bool(self.server_state.connections or self.server_state.tasks), deadline_s)
        # 4. The others are answered 503, or their response breaks off.
        if running := list(self.server_state.tasks):
            log.warning("requests cut off by the stop", number=len(running))
            for task in running:
                task.cancel()
            await asyncio.wait(running, timeout=UNDO_S)
        await self.lifespan.shutdown()

    def _open(self) -> list[Connection]:
        return cast(list[Connection], list(self.server_state.connections))

    async def _wait_until_unused(self, deadline_s: float) -> None:
        """Between two requests of a busy client no request runs either, so a single look is not enough."""
        used_s = time.monotonic()
        served = self.server_state.total_requests

        def is_used() -> bool:
            nonlocal used_s, served
            if self.server_state.tasks or self.server_state.total_requests != served:
                used_s, served = time.monotonic(), self.server_state.total_requests
            return time.monotonic() < used_s + QUIET_S

        await self._wait_while(is_used, deadline_s)

    async def _wait_while(self, running: Callable[[], bool], deadline_s: float) -> None:
        while running() and not self.force_exit and time.monotonic() < deadline_s:  # noqa: ASYNC110  (no event says so)
            await asyncio.sleep(POLL_S)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals():
            yield
            self._captured_signals.clear()
