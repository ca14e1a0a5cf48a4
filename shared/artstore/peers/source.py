"""The body of an upload on its way from one service to another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator


class Source:
    """The chunks of an upload, with a limit on how long the peer may take for each, and the memory of its own failure."""

    def __init__(self, chunks: AsyncIterator[bytes], idle_timeout_s: float) -> None:
        self._chunks, self._idle_timeout_s = chunks, idle_timeout_s
        self.limit: asyncio.Timeout
        self.failed: Exception | None = None
        self.waiting_since_s: float | None = asyncio.get_running_loop().time()

    async def read(self) -> AsyncIterator[bytes]:
        try:
            self._wait_for_chunk()
            async for chunk in self._chunks:
                self.wait_for_peer()
                yield chunk
                self._wait_for_chunk()
        except Exception as error:
            self.failed = error
            raise
        self.wait_for_peer()

    def wait_for_peer(self) -> None:
        self.waiting_since_s = asyncio.get_running_loop().time()
        self._expire_at(self.waiting_since_s + self._idle_timeout_s)

    def give_up(self) -> None:
        self._expire_at(asyncio.get_running_loop().time())

    def _wait_for_chunk(self) -> None:
        self.waiting_since_s = None
        self._expire_at(None)

    def _expire_at(self, at_s: float | None) -> None:
        if not self.limit.expired():
            self.limit.reschedule(at_s)
