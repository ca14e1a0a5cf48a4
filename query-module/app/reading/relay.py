"""ASGI responses with large bodies: from an element, chunk by chunk, and from memory."""

from __future__ import annotations

from contextlib import AsyncExitStack

import aiohttp
from prometheus_client import CollectorRegistry, Counter
from starlette.types import Receive, Scope, Send

from artstore.errors import TooSlow
from artstore.http.body import BodyRateLimits
from artstore.http.content_head import FieldsResponse
from artstore.http.sending import BodySender
from artstore.logs import get_logger
from artstore.metrics import FileMetrics
from artstore.tasks import spawn

from .hot import HotContents

log = get_logger("query.relay")


class RelayMetrics:
    """`ended` counts downloads whose answer had begun: ok, cancelled (the client left), slow (it read too slowly), broken."""

    def __init__(self, registry: CollectorRegistry, files: FileMetrics) -> None:
        self.ended = files.operations
        self.sent = Counter("content_sent_bytes_total", "Bytes of files sent to clients", registry=registry)
        self._whole = self.ended.labels("download", "ok")

    def count_whole(self, size_bytes: int) -> None:
        """A download whose answer is one message."""
        self._whole.inc()
        self.sent.inc(size_bytes)


class FromMemory(FieldsResponse):
    """Sends a hot content, or a part of it, that is too large to be copied for each client: so it counts as in use. A client
    that reads more slowly than `limits` allow is disconnected."""

    def __init__(
        self,
        status: int,
        fields: list[tuple[bytes, bytes]],
        body: bytes,
        hot: HotContents,
        metrics: RelayMetrics,
        limits: BodyRateLimits,
    ) -> None:
        super().__init__(status, fields)
        self._body, self._hot, self._metrics, self._limits = body, hot, metrics, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._hot.in_use(len(self._body)):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                with BodySender(scope, send, self._limits) as sender:
                    await sender.send(self._body, more=False)
            except TooSlow:
                self._metrics.ended.labels("download", "slow").inc()
                return
        self._metrics.count_whole(len(self._body))


class Relay(FieldsResponse):
    """Sends exactly `length` bytes of `upstream`, or breaks the connection so that a short answer never looks complete.

    `opened` holds the upstream connection and is always closed here. A client that reads more slowly than `limits` allow is
    disconnected. `copy`, if there is one, gets the pieces.
    """

    def __init__(
        self,
        status: int,
        fields: list[tuple[bytes, bytes]],
        upstream: aiohttp.ClientResponse,
        length: int,
        opened: AsyncExitStack,
        metrics: RelayMetrics,
        limits: BodyRateLimits,
        copy: list[bytes] | None,
    ) -> None:
        super().__init__(status, fields)
        self._upstream, self._length, self._opened, self._metrics = upstream, length, opened, metrics
        self._limits, self._copy = limits, copy

    async def discard(self) -> None:
        """Closes the upstream connection of an answer that is not sent."""
        await self._opened.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._opened:
            leaving = spawn("client-leaves", self._close_when_client_leaves(receive))
            try:
                result = await self._send_all(scope, send)
            finally:
                leaving.cancel()
            if result == "broken" and leaving.done() and not leaving.cancelled():
                result = "cancelled"
            elif result == "broken":
                log.warning("download broken off", element=str(self._upstream.url.origin()))
            self._metrics.ended.labels("download", result).inc()

    async def _send_all(self, scope: Scope, send: Send) -> str:
        """Returns the result label. Without a last message the answer is incomplete and the server closes the connection."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        left = self._length
        if left == 0:
            await send({"type": "http.response.body", "body": b""})
            return "ok"
        try:
            with BodySender(scope, send, self._limits) as sender:
                async for chunk in self._upstream.content.iter_any():
                    left -= len(chunk)
                    if left < 0:
                        return "broken"
                    if self._copy is not None:
                        self._copy.append(chunk)
                    await sender.send(chunk, more=left > 0)
                    self._metrics.sent.inc(len(chunk))
        except TooSlow:
            return "slow"
        except (aiohttp.ClientError, OSError):  # broken off, reset, closed below, or the element timed out
            return "broken"
        return "ok" if left == 0 else "broken"

    async def _close_when_client_leaves(self, receive: Receive) -> None:
        """Ends the wait for the element when the client has gone."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._upstream.close()
