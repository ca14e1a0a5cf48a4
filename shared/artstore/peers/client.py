"""A request to one peer: token, request id, trace, timeouts, breaker; errors come out as the type they went in.

aiohttp, because bytes pass here: its small request costs a fifteenth of httpx's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp

from artstore.clock import uuid7
from artstore.errors import ArtStoreError, BadGateway, Forbidden, Overloaded, Unauthenticated, Unavailable, from_wire
from artstore.http.edge import REQUEST_ID_HEADER
from artstore.logs import get_logger, request_id
from artstore.peers.breaker import Breaker
from artstore.peers.faults import MAX_ANSWER_BYTES, PeerFault, failure_of, is_at_fault
from artstore.peers.pools import Kind, Pools
from artstore.peers.source import Source
from artstore.peers.waits import AnswerWait, OwnLag, Waits
from artstore.tracing import trace_headers

log = get_logger("artstore.peers")

TIMER_S = 0.05
"""How exact a timer of the event loop is at least."""
READING = frozenset({"GET", "HEAD"})
"""Sent again by the library when a connection out of the pool turns out to be lost."""


class Token(Protocol):
    """This process's own access token. auth/client.py fetches it; admin makes its own."""

    async def __call__(self) -> str: ...

    def invalidate(self, token: str) -> None:
        """The token was refused: the next call gives another."""


@dataclass(frozen=True, slots=True)
class PeerAnswer:
    """Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class _Request:
    """A request to a peer. `source` is the body of an upload; `options` go to the library as they are."""

    method: str
    path: str
    timeout: aiohttp.ClientTimeout
    headers: dict[str, str]
    options: Mapping[str, Any]
    source: Source | None
    answer_timeout_s: float | None


@dataclass(frozen=True, slots=True)
class Peer:
    """One other process. Every method raises the peer's own error, or Unavailable when it cannot be reached."""

    name: str
    url: str
    session: aiohttp.ClientSession
    token: Token
    breaker: Breaker
    connect_timeout_s: float
    pools: Pools
    waits: Waits
    lag: OwnLag

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float,
        kind: Kind = "control",
    ) -> PeerAnswer:
        """A small request and its whole answer. `kind` is "transfer" when the body is a file's."""
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=self.connect_timeout_s)
        json_headers = {"content-type": "application/json"} if body is not None else {}
        sent = {**json_headers, **(headers or {})}
        async with (
            self.pools.of(kind).slot(),
            self._answered(method, path, timeout, sent, data=body, params=params) as response,
        ):
            return await _whole(response)

    async def upload(
        self,
        method: str,
        path: str,
        *,
        chunks: AsyncIterator[bytes],
        size_bytes: int | None,
        headers: Mapping[str, str],
        idle_timeout_s: float,
    ) -> PeerAnswer:
        """Stream a body. What `chunks` raises is raised here again, and breaks the connection so the peer sees no whole body.

        `idle_timeout_s` bounds each wait for the peer (to take a chunk, to answer), not the waits for `chunks`.
        """
        async with self.pools.transfer.slot():
            return await self._upload(method, path, Source(chunks, idle_timeout_s), size_bytes, headers, idle_timeout_s)

    async def _upload(
        self,
        method: str,
        path: str,
        source: Source,
        size_bytes: int | None,
        headers: Mapping[str, str],
        idle_timeout_s: float,
    ) -> PeerAnswer:
        length = {} if size_bytes is None else {"content-length": str(size_bytes)}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.connect_timeout_s)
        try:
            async with asyncio.timeout(idle_timeout_s) as source.limit:
                with self.waits.watching(source):
                    async with self._answered(
                        method, path, timeout, {**headers, **length}, data=source.read(), source=source
                    ) as response:
                        source.wait_for_peer()
                        return await _whole(response)
        except TimeoutError as error:
            fault = PeerFault(Unavailable(f"{self.name} does not accept the body", away=self.name))
            self.breaker.count(fault)
            raise fault.error from error

    @asynccontextmanager
    async def stream(
        self,
        path: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        answer_timeout_s: float | None = None,
        idle_timeout_s: float,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer whose body is read by the caller, chunk by chunk; `idle_timeout_s` bounds the wait for each, and
        `answer_timeout_s` the wait for its head."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.connect_timeout_s, sock_read=idle_timeout_s)
        async with (
            self.pools.transfer.slot(),
            self._answered(
                method, path, timeout, dict(headers or {}), answer_timeout_s=answer_timeout_s, params=params
            ) as response,
        ):
            yield response

    @asynccontextmanager
    async def _answered(
        self,
        method: str,
        path: str,
        timeout: aiohttp.ClientTimeout,
        headers: dict[str, str],
        *,
        source: Source | None = None,
        answer_timeout_s: float | None = None,
        **options: Any,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response once its status is known and below 400. Only the wait for the status counts for the breaker."""
        headers[REQUEST_ID_HEADER] = request_id.get() or str(uuid7())
        headers |= trace_headers()
        request = _Request(method, path, timeout, headers, options, source, answer_timeout_s)
        response = await self._ask_as_ourselves(request)
        if response.status == Unauthenticated.status and source is None:
            # Our token was taken back (a key was revoked, our account changed): it is gone now, and another may do.
            response.release()
            response = await self._ask_as_ourselves(request)
        try:
            if response.status >= 400:
                raise self._error(response.status, await response.content.read(MAX_ANSWER_BYTES))
            yield response
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            raise Unavailable(f"{self.name} ended its answer early", away=self.name) from error
        finally:
            response.release() if response.content.at_eof() else response.close()

    def _error(self, status: int, body: bytes) -> ArtStoreError:
        """What the peer refused; but that it does not know or trust us is nothing our own caller can mend."""
        error = from_wire(status, body)
        if isinstance(error, Unauthenticated | Forbidden):
            return BadGateway(f"{self.name} refuses this service's account: {error.detail}")
        return error

    async def _ask_as_ourselves(self, request: _Request) -> aiohttp.ClientResponse:
        """With our token, which is thrown away when the peer does not accept it."""
        token = await self.token()
        request.headers["authorization"] = f"Bearer {token}"
        try:
            async with self.breaker.guard():
                response = await self._ask(request)
        except PeerFault as fault:
            raise fault.error from fault
        if response.status in (
            Unauthenticated.status,
            Forbidden.status,
        ):  # forbidden: we may have been given more since
            self.token.invalidate(token)
        return response

    async def _ask(self, request: _Request) -> aiohttp.ClientResponse:
        source, began_s = request.source, asyncio.get_running_loop().time()
        try:
            if source is not None:
                response = await self._send(request)
            else:
                async with asyncio.timeout(request.answer_timeout_s) as limit:
                    with self.waits.watching(AnswerWait(limit)):
                        response = await self._send(request)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if source is not None and source.failed is not None:
                raise source.failed from error
            if isinstance(error, TimeoutError) and self.lag.late_since(began_s):
                log.warning("no answer in time, this process was late", peer=self.name)
                raise Overloaded(f"this service is too busy to wait for {self.name}") from error
            log.warning("peer cannot be reached", peer=self.name, error=str(error) or type(error).__name__)
            raise PeerFault(Unavailable(f"{self.name} cannot be reached", away=self.name)) from error
        if response.status >= 500:
            failure = await failure_of(response)
            raise PeerFault(failure) if is_at_fault(self.name, failure) else failure
        return response

    async def _send(self, request: _Request) -> aiohttp.ClientResponse:
        """Past connections whose timer the library left running after a large answer: they fail before their time."""
        began_s = asyncio.get_running_loop().time()
        while True:
            try:
                return await self.session.request(
                    request.method,
                    self.url + request.path,
                    timeout=request.timeout,
                    headers=request.headers,
                    allow_redirects=False,
                    middlewares=() if request.method in READING else (_sent_once,),
                    **request.options,
                )
            except aiohttp.SocketTimeoutError:
                # Each of them leaves the pool by this, and patience ends all the same.
                waited_s = asyncio.get_running_loop().time() - began_s
                if request.method not in READING or waited_s >= (request.timeout.sock_read or 0) - TIMER_S:
                    raise


async def _sent_once(
    request: aiohttp.ClientRequest, send: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]
) -> aiohttp.ClientResponse:
    """The library sends PUT and DELETE again too (RFC 9110 §9.2.2): then the second answer, 404 or 412, hides that the first
    one was made. Only who asked can tell what a repeat would mean."""
    try:
        return await send(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(f"no answer: {error}") from error


async def _whole(response: aiohttp.ClientResponse) -> PeerAnswer:
    body = await response.read()
    return PeerAnswer(response.status, {name.lower(): value for name, value in response.headers.items()}, body)
