"""Typed requests to one peer: token, request id, trace, timeouts, circuit breaker. An error of the peer is
raised as its own class.

Small requests use connections.py; file contents are streamed with aiohttp, which costs a fifteenth of httpx.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn, Protocol
from urllib.parse import urlencode

import aiohttp
from opentelemetry.trace import Span

from artstore.clock import uuid7
from artstore.errors import (
    ArtStoreError,
    BadGateway,
    Forbidden,
    Overloaded,
    RateLimited,
    Unauthenticated,
    Unavailable,
    from_wire,
)
from artstore.logs import JOINT_HEADER, MAX_JOINT_CHARS, get_logger, joint_requests, request_id
from artstore.peers.breaker import Breaker
from artstore.peers.connections import READING, PeerAnswer, PeerConnections
from artstore.peers.faults import MAX_ANSWER_BYTES, PeerFault, failure_of, is_at_fault
from artstore.peers.liveness import LoopLag, PendingRequests, ResponseWait, UploadBody
from artstore.peers.pools import Kind, Pools
from artstore.tracing import call_span, trace_headers

log = get_logger("artstore.peers")

TIMER_S = 0.05
"""Precision of the event loop's timers."""
_TOKEN_REFUSED = (Unauthenticated.status, Forbidden.status)
"""Also when forbidden: the account may have been given more since the token was issued."""
REPEATED = frozenset({"PUT", "DELETE"})
"""Methods that aiohttp would repeat then although they change something."""


class Token(Protocol):
    """A source of this process's own access token. auth/client.py fetches it from admin; admin issues its
    own."""

    async def __call__(self) -> str: ...

    def invalidate(self, token: str) -> None:
        """The token was refused: the next call gives another."""


@dataclass(slots=True)  # a frozen one takes four times as long to make
class _Request:
    """A request to a peer. `upload_body` is set for uploads; `options` are passed to aiohttp unchanged."""

    method: str
    path: str
    timeout: aiohttp.ClientTimeout
    headers: dict[str, str]
    options: Mapping[str, Any]
    upload_body: UploadBody | None = None
    answer_timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Peer:
    """One other service. Every method raises the peer's own error, Unavailable if it cannot be reached,
    Overloaded if this process has too many requests open."""

    name: str
    url: str
    session: aiohttp.ClientSession
    connections: PeerConnections
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
        sent = {"content-type": "application/json"} if body is not None else {}
        sent |= headers or {}
        target = f"{path}?{urlencode(params)}" if params else path
        pool = self.pools.of(kind)
        with self._span(method) as current:
            sent |= _ids()
            await pool.take()
            try:
                answer = await self._call(method, target, sent, body, timeout_s)
                if answer.status == Unauthenticated.status:
                    # Our token was revoked (a key was revoked, our account changed) and has been dropped.
                    answer = await self._call(method, target, sent, body, timeout_s)
            finally:
                pool.release()
            current.set_attribute("http.response.status_code", answer.status)
            if answer.status >= 400:
                raise self._refusal(answer.status, answer.body)
            return answer

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
        sent = dict(headers) if size_bytes is None else {**headers, "content-length": str(size_bytes)}
        timeout = _timeout(None, self.connect_timeout_s, None)
        await self.pools.transfer.take()
        upload_body = UploadBody(chunks, idle_timeout_s)
        request = _Request(method, path, timeout, sent, {"data": upload_body.read()}, upload_body)
        self.pending.add(upload_body)
        try:
            async with asyncio.timeout(idle_timeout_s) as upload_body.limit, _Answered(self, request) as response:
                upload_body.wait_for_peer()
                return await _whole(response)
        except TimeoutError as error:
            fault = PeerFault(Unavailable(f"{self.name} does not accept the body", away=self.name))
            self.breaker.count(fault)
            raise fault.error from error
        finally:
            self.pending.discard(upload_body)
            self.pools.transfer.release()

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
        timeout = _timeout(None, self.connect_timeout_s, idle_timeout_s)
        request = _Request("GET", path, timeout, dict(headers or {}), {}, answer_timeout_s=answer_timeout_s)
        await self.pools.transfer.take()
        try:
            async with _Answered(self, request) as response:
                yield response
        finally:
            self.pools.transfer.release()

    async def open(self, request: _Request) -> aiohttp.ClientResponse:
        """The response, once its status is known. Only the wait for the status counts at the breaker."""
        with self._span(request.method) as current:
            request.headers |= _ids()
            response = await self._authenticated(request)
            if response.status == Unauthenticated.status and request.upload_body is None:
                # Our token was revoked (a key was revoked, our account changed) and has been dropped.
                response.release()
                response = await self._authenticated(request)
            current.set_attribute("http.response.status_code", response.status)
            return response

    def _span(self, method: str) -> AbstractContextManager[Span]:
        """Up to the head of the response, or to its end if it is in memory."""
        attributes = {"http.request.method": method, "server.address": self.name}
        return call_span(method, attributes)

    async def check(self, response: aiohttp.ClientResponse) -> None:
        """Raises the peer's error."""
        if response.status >= 400:
            raise self._refusal(response.status, await response.content.read(MAX_ANSWER_BYTES))

    def _refusal(self, status: int, body: bytes) -> ArtStoreError:
        """The peer's error; BadGateway if it refuses our account, which our caller cannot change. A module's account has no
        rate limit: a peer answers 429 only after it has refused our token many times."""
        error = from_wire(status, body)
        if isinstance(error, Unauthenticated | Forbidden | RateLimited):
            return BadGateway(f"{self.name} refuses this service's account: {error.detail}")
        return error

    async def _call(
        self, method: str, target: str, headers: dict[str, str], body: bytes | None, timeout_s: float
    ) -> PeerAnswer:
        """One attempt with our token, which is dropped if the peer does not accept it."""
        token = await self.token()
        headers["authorization"] = f"Bearer {token}"
        began_s = asyncio.get_running_loop().time()
        try:
            async with self.breaker.guard():
                try:
                    answer = await self.connections.ask(
                        method, target, headers, body, timeout_s=timeout_s, pending=self.pending
                    )
                except (OSError, TimeoutError) as error:
                    raise self._no_answer(error, began_s) from error
                if answer.status >= 500:
                    self._raise_failure(from_wire(answer.status, answer.body))
        except PeerFault as fault:
            raise fault.error from fault
        if answer.status in _TOKEN_REFUSED:
            self.token.invalidate(token)
        return answer

    def _no_answer(self, error: Exception, began_s: float) -> Exception:
        """The PeerFault, or Overloaded if this process itself was too busy to receive an answer in time."""
        if isinstance(error, TimeoutError) and self.lag.late_since(began_s):
            log.warning("no response in time: own event loop was blocked", peer=self.name)
            return Overloaded(f"this service is too busy to wait for {self.name}")
        log.warning("peer unreachable", peer=self.name, error=str(error) or type(error).__name__)
        return PeerFault(Unavailable(f"{self.name} cannot be reached", away=self.name))

    def _raise_failure(self, failure: ArtStoreError) -> NoReturn:
        """For a response of 500 or above."""
        raise PeerFault(failure) if is_at_fault(self.name, failure) else failure

    async def _authenticated(self, request: _Request) -> aiohttp.ClientResponse:
        """Sends the request with our token, which is dropped if the peer does not accept it."""
        token = await self.token()
        request.headers["authorization"] = f"Bearer {token}"
        try:
            async with self.breaker.guard():
                response = await self._ask(request)
        except PeerFault as fault:
            raise fault.error from fault
        if response.status in _TOKEN_REFUSED:
            self.token.invalidate(token)
        return response

    async def _ask(self, request: _Request) -> aiohttp.ClientResponse:
        upload_body, began_s = request.upload_body, asyncio.get_running_loop().time()
        try:
            if upload_body is not None:
                response = await self._send(request)
            else:
                async with asyncio.timeout(request.answer_timeout_s) as limit:
                    waiting = ResponseWait(limit)
                    self.pending.add(waiting)
                    try:
                        response = await self._send(request)
                    finally:
                        self.pending.discard(waiting)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if upload_body is not None and upload_body.failed is not None:
                raise upload_body.failed from error
            raise self._no_answer(error, began_s) from error
        if response.status >= 500:
            self._raise_failure(await failure_of(response))
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
                    middlewares=(_sent_once,) if request.method in REPEATED else (),
                    **request.options,
                )
            except aiohttp.SocketTimeoutError:
                # The failed connection has left the pool; the timeout applies to all attempts together.
                waited_s = asyncio.get_running_loop().time() - began_s
                if request.method not in READING or waited_s >= (request.timeout.sock_read or 0) - TIMER_S:
                    raise


class _Answered:
    """The block in which a response below 400 is read; afterwards its connection is free again, or closed."""

    __slots__ = ("_peer", "_request", "_response")

    def __init__(self, peer: Peer, request: _Request) -> None:
        self._peer, self._request = peer, request
        self._response: aiohttp.ClientResponse

    async def __aenter__(self) -> aiohttp.ClientResponse:
        self._response = response = await self._peer.open(self._request)
        if response.status >= 400:
            try:
                await self._peer.check(response)
            except BaseException as error:
                self._end(error)
                raise
        return response

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        response = self._response
        response.release() if response.content.at_eof() else response.close()
        if isinstance(error, aiohttp.ClientError | ConnectionError | TimeoutError):
            raise Unavailable(f"{self._peer.name} ended its answer early", away=self._peer.name) from error


def _ids() -> dict[str, str]:
    """The headers that name the request and its trace to the peer."""
    ids = {"x-request-id": request_id.get() or str(uuid7()), **trace_headers()}
    if joint := joint_requests.get():
        ids[JOINT_HEADER] = ",".join(joint)[:MAX_JOINT_CHARS]
    return ids


@lru_cache(maxsize=256)
def _timeout(total_s: float | None, connect_s: float, read_s: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=total_s, sock_connect=connect_s, sock_read=read_s)


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
    headers = {name.lower(): value for name, value in response.headers.items()}
    return PeerAnswer(response.status, headers, await response.read())
