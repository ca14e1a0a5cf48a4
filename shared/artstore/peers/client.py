"""Typed requests to one peer: token, request id, trace, timeouts, circuit breaker. An error of the peer is
raised as its own class.

It uses aiohttp because file contents pass here: a small request costs a fifteenth of one with httpx.
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
from artstore.logs import get_logger, request_id
from artstore.peers.breaker import Breaker
from artstore.peers.faults import MAX_ANSWER_BYTES, PeerFault, failure_of, is_at_fault
from artstore.peers.liveness import LoopLag, PendingRequests, ResponseWait, UploadBody
from artstore.peers.pools import Kind, Pools
from artstore.tracing import trace_headers

log = get_logger("artstore.peers")

TIMER_S = 0.05
"""Precision of the event loop's timers."""
READING = frozenset({"GET", "HEAD"})
"""Methods that aiohttp may repeat when a pooled connection turns out to be closed."""


class Token(Protocol):
    """A source of this process's own access token. auth/client.py fetches it from admin; admin issues its
    own."""

    async def __call__(self) -> str: ...

    def invalidate(self, token: str) -> None:
        """The token was refused: the next call gives another."""


@dataclass(frozen=True, slots=True)
class PeerAnswer:
    """A complete response. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class _Request:
    """A request to a peer. `upload_body` is set for uploads; `options` are passed to aiohttp unchanged."""

    method: str
    path: str
    timeout: aiohttp.ClientTimeout
    headers: dict[str, str]
    options: Mapping[str, Any]
    upload_body: UploadBody | None
    answer_timeout_s: float | None


@dataclass(frozen=True, slots=True)
class Peer:
    """One other service. Every method raises the peer's own error, Unavailable if it cannot be reached,
    Overloaded if this process has too many requests open."""

    name: str
    url: str
    session: aiohttp.ClientSession
    token: Token
    breaker: Breaker
    connect_timeout_s: float
    pools: Pools
    pending: PendingRequests
    lag: LoopLag

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
        """Sends a small request and reads the whole response. `kind` is "transfer" if the body is a file's
        content."""
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
        """Streams a body. An exception of `chunks` is raised again and aborts the connection, so the peer
        does not take the body for complete.

        `idle_timeout_s` bounds each wait for the peer (to accept a chunk, to respond), not the waits for
        `chunks`.
        """
        async with self.pools.transfer.slot():
            return await self._upload(
                method, path, UploadBody(chunks, idle_timeout_s), size_bytes, headers, idle_timeout_s
            )

    async def _upload(
        self,
        method: str,
        path: str,
        upload_body: UploadBody,
        size_bytes: int | None,
        headers: Mapping[str, str],
        idle_timeout_s: float,
    ) -> PeerAnswer:
        length = {} if size_bytes is None else {"content-length": str(size_bytes)}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.connect_timeout_s)
        try:
            async with asyncio.timeout(idle_timeout_s) as upload_body.limit:
                with self.pending.track(upload_body):
                    async with self._answered(
                        method, path, timeout, {**headers, **length}, data=upload_body.read(), upload_body=upload_body
                    ) as response:
                        upload_body.wait_for_peer()
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
        headers: Mapping[str, str] | None = None,
        answer_timeout_s: float | None = None,
        idle_timeout_s: float,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response whose body the caller reads in chunks. `idle_timeout_s` bounds the wait for each chunk,
        `answer_timeout_s` the wait for the head."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.connect_timeout_s, sock_read=idle_timeout_s)
        async with (
            self.pools.transfer.slot(),
            self._answered("GET", path, timeout, dict(headers or {}), answer_timeout_s=answer_timeout_s) as response,
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
        upload_body: UploadBody | None = None,
        answer_timeout_s: float | None = None,
        **options: Any,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response, once its status is known and below 400. Only the wait for the status counts at the
        breaker."""
        headers["x-request-id"] = request_id.get() or str(uuid7())
        headers |= trace_headers()
        request = _Request(method, path, timeout, headers, options, upload_body, answer_timeout_s)
        response = await self._authenticated(request)
        if response.status == Unauthenticated.status and upload_body is None:
            # Our token was revoked (a key was revoked, our account changed). It has been dropped, so try with a new one.
            response.release()
            response = await self._authenticated(request)
        try:
            if response.status >= 400:
                raise self._error(response.status, await response.content.read(MAX_ANSWER_BYTES))
            yield response
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            raise Unavailable(f"{self.name} ended its answer early", away=self.name) from error
        finally:
            response.release() if response.content.at_eof() else response.close()

    def _error(self, status: int, body: bytes) -> ArtStoreError:
        """The peer's error; BadGateway if it refuses our account, which our caller cannot change."""
        error = from_wire(status, body)
        if isinstance(error, Unauthenticated | Forbidden):
            return BadGateway(f"{self.name} refuses this service's account: {error.detail}")
        return error

    async def _authenticated(self, request: _Request) -> aiohttp.ClientResponse:
        """Sends the request with our token, which is dropped if the peer does not accept it."""
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
        upload_body, began_s = request.upload_body, asyncio.get_running_loop().time()
        try:
            if upload_body is not None:
                response = await self._send(request)
            else:
                async with asyncio.timeout(request.answer_timeout_s) as limit:
                    with self.pending.track(ResponseWait(limit)):
                        response = await self._send(request)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if upload_body is not None and upload_body.failed is not None:
                raise upload_body.failed from error
            if isinstance(error, TimeoutError) and self.lag.late_since(began_s):
                log.warning("no response in time: own event loop was blocked", peer=self.name)
                raise Overloaded(f"this service is too busy to wait for {self.name}") from error
            log.warning("peer unreachable", peer=self.name, error=str(error) or type(error).__name__)
            raise PeerFault(Unavailable(f"{self.name} cannot be reached", away=self.name)) from error
        if response.status >= 500:
            failure = await failure_of(response)
            raise PeerFault(failure) if is_at_fault(self.name, failure) else failure
        return response

    async def _send(self, request: _Request) -> aiohttp.ClientResponse:
        """Sends the request. aiohttp leaves the read timer running on a pooled connection after a large
        response; such a connection fails too early, so the request is repeated on another one."""
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
                # The failed connection has left the pool; the timeout applies to all attempts together.
                waited_s = asyncio.get_running_loop().time() - began_s
                if request.method not in READING or waited_s >= (request.timeout.sock_read or 0) - TIMER_S:
                    raise


async def _sent_once(
    request: aiohttp.ClientRequest, send: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]
) -> aiohttp.ClientResponse:
    """aiohttp would also repeat PUT and DELETE (RFC 9110 §9.2.2): the second response, 404 or 412, would hide
    that the first request succeeded. Only the caller knows what a repetition would do."""
    try:
        return await send(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(f"no response: {error}") from error


async def _whole(response: aiohttp.ClientResponse) -> PeerAnswer:
    body = await response.read()
    return PeerAnswer(response.status, {name.lower(): value for name, value in response.headers.items()}, body)
