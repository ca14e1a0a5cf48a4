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

    async def read(self) -> AsyncIterator[bytes]:
        try:
            self.limit.reschedule(None)
            async for chunk in self._chunks:
                self.wait_for_peer()
                yield chunk
                self.limit.reschedule(None)
        except Exception as error:
            self.failed = error
            raise
        self.wait_for_peer()

    def wait_for_peer(self) -> None:
        if not self.limit.expired():
            self.limit.reschedule(asyncio.get_running_loop().time() + self._idle_timeout_s)
