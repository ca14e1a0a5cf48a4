"""Calls from one module to another: token, request id, trace, timeout, breaker; errors come out as the type they went in.

aiohttp, because bytes pass here: its small request costs a fifteenth of httpx's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp

from artstore.breaker import Breaker, Breakers
from artstore.clock import uuid7
from artstore.config import PeerSettings
from artstore.edge import REQUEST_ID_HEADER
from artstore.errors import (
    ArtStoreError,
    BadGateway,
    Forbidden,
    Unauthenticated,
    Unavailable,
    from_wire,
)
from artstore.logs import get_logger, request_id
from artstore.origins import GuardedResolver
from artstore.peer_faults import MAX_ANSWER_BYTES, PeerFault, failure_of, is_at_fault
from artstore.tasks import Tasks
from artstore.tracing import trace_headers
from artstore.upload_source import Source

log = get_logger("artstore.peers")

ADMIN = "admin"
"""The one peer that is not an element."""
KEEP_CONNECTION_S = 30
PROBE_EVERY_S = 1.0
"""How often a peer whose breaker is open is asked whether it is ready again."""
MAX_CONNECTIONS = 256
TIMER_S = 0.05
"""How exact a timer of the event loop is at least."""
READING = frozenset({"GET", "HEAD"})
"""Sent again by the library when a connection out of the pool turns out to be lost."""


class Token(Protocol):
    """This process's own access token. auth/client.py fetches it; admin makes its own."""

    async def __call__(self) -> str: ...

    def void(self, token: str) -> None:
        """The token was refused: the next call gives another."""


@dataclass(frozen=True, slots=True)
class PeerAnswer:
    """Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Peers:
    """All other modules, as seen from this process."""

    def __init__(
        self, session: aiohttp.ClientSession, token: Token, breakers: Breakers, connect_timeout_s: float
    ) -> None:
        self._session, self._token, self._breakers = session, token, breakers
        self._connect_timeout_s = connect_timeout_s
        self._urls: dict[str, str] = {}

    def to(self, name: str, url: str) -> Peer:
        """`name` is a module's or an element's: it names the breaker and stands in errors."""
        breaker = self._breakers.to(name, (PeerFault,))
        self._urls[name] = url
        return Peer(name, url.rstrip("/"), self._session, self._token, breaker, self._connect_timeout_s)

    def retain(self, elements: Collection[str]) -> None:
        """Forget the breakers of elements that are not in the registry any more, and so their series."""
        for name in self._urls.keys() - set(elements) - {ADMIN}:
            del self._urls[name]
            self._breakers.forget(name)

    def refused(self) -> list[str]:
        """Those that a call now would not reach, since their breaker is open."""
        return [name for name in self._urls if self._breakers.to(name, (PeerFault,)).refuses]

    async def probe(self) -> None:
        """One round over the peers whose breaker is not closed: who is ready again need not wait for the half-open call."""
        for name, url in list(self._urls.items()):
            breaker = self._breakers.to(name, (PeerFault,))
            if not breaker.closed and await self._is_ready(url):
                log.info("peer is back", peer=name)
                breaker.heal()

    async def _is_ready(self, url: str) -> bool:
        timeout = aiohttp.ClientTimeout(total=self._connect_timeout_s)
        try:
            async with self._session.get(f"{url.rstrip('/')}/health/ready", timeout=timeout) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False


@dataclass(frozen=True, slots=True)
class Peer:
    """One other process. Every method raises the peer's own error, or Unavailable when it cannot be reached."""

    name: str
    url: str
    session: aiohttp.ClientSession
    token: Token
    breaker: Breaker
    connect_timeout_s: float

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float,
    ) -> PeerAnswer:
        """A small request and its whole answer."""
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=self.connect_timeout_s)
        json_headers = {"content-type": "application/json"} if body is not None else {}
        sent = {**json_headers, **(headers or {})}
        async with self._answered(method, path, timeout, sent, data=body, params=params) as response:
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
        source = Source(chunks, idle_timeout_s)
        length = {} if size_bytes is None else {"content-length": str(size_bytes)}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.connect_timeout_s)
        try:
            async with asyncio.timeout(idle_timeout_s) as source.limit:
                async with self._answered(
                    method, path, timeout, {**headers, **length}, data=source.read(), source=source
                ) as response:
                    source.wait_for_peer()
                    return await _whole(response)
        except TimeoutError as error:
            fault = PeerFault(Unavailable(f"{self.name} does not take the body", away=self.name))
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
        idle_timeout_s: float,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer whose body is read by the caller, chunk by chunk; `idle_timeout_s` bounds the wait for each."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.connect_timeout_s, sock_read=idle_timeout_s)
        async with self._answered(method, path, timeout, dict(headers or {}), params=params) as response:
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
        **options: Any,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response once its status is known and below 400. Only the wait for the status counts for the breaker."""
        headers[REQUEST_ID_HEADER] = request_id.get() or str(uuid7())
        headers |= trace_headers()
        response = await self._ask_as_ourselves(method, path, timeout, headers, source, options)
        if response.status == Unauthenticated.status and source is None:
            # Our token was taken back (a key was revoked, our account changed): it is gone now, and another may do.
            response.release()
            response = await self._ask_as_ourselves(method, path, timeout, headers, source, options)
        try:
            if response.status >= 400:
                raise self._error(response.status, await response.content.read(MAX_ANSWER_BYTES))
            yield response
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            raise Unavailable(f"{self.name} broke off its answer", away=self.name) from error
        finally:
            response.release() if response.content.at_eof() else response.close()

    def _error(self, status: int, body: bytes) -> ArtStoreError:
        """What the peer refused; but that it does not know or trust us is nothing our own caller can mend."""
        error = from_wire(status, body)
        if isinstance(error, Unauthenticated | Forbidden):
            return BadGateway(f"{self.name} refuses this service's account: {error.detail}")
        return error

    async def _ask_as_ourselves(
        self,
        method: str,
        path: str,
        timeout: aiohttp.ClientTimeout,
        headers: Mapping[str, str],
        source: Source | None,
        options: Mapping[str, Any],
    ) -> aiohttp.ClientResponse:
        """With our token, which is thrown away when the peer does not accept it."""
        token = await self.token()
        headers = {**headers, "authorization": f"Bearer {token}"}
        try:
            async with self.breaker.guard():
                response = await self._ask(method, path, timeout, headers, source, options)
        except PeerFault as fault:
            raise fault.error from fault
        if response.status in (
            Unauthenticated.status,
            Forbidden.status,
        ):  # forbidden: we may have been given more since
            self.token.void(token)
        return response

    async def _send(
        self,
        method: str,
        path: str,
        timeout: aiohttp.ClientTimeout,
        headers: Mapping[str, str],
        options: Mapping[str, Any],
    ) -> aiohttp.ClientResponse:
        """Past connections whose timer the library left running after a large answer: they fail before their time."""
        began_s = asyncio.get_running_loop().time()
        while True:
            try:
                return await self.session.request(
                    method,
                    self.url + path,
                    timeout=timeout,
                    headers=headers,
                    allow_redirects=False,
                    middlewares=() if method in READING else (_sent_once,),
                    **options,
                )
            except aiohttp.SocketTimeoutError:
                # Each of them leaves the pool by this, and patience ends all the same.
                waited_s = asyncio.get_running_loop().time() - began_s
                if method not in READING or waited_s >= (timeout.sock_read or 0) - TIMER_S:
                    raise

    async def _ask(
        self,
        method: str,
        path: str,
        timeout: aiohttp.ClientTimeout,
        headers: Mapping[str, str],
        source: Source | None,
        options: Mapping[str, Any],
    ) -> aiohttp.ClientResponse:
        try:
            response = await self._send(method, path, timeout, headers, options)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if source is not None and source.failed is not None:
                raise source.failed from error
            log.warning("peer cannot be reached", peer=self.name, error=str(error) or type(error).__name__)
            raise PeerFault(Unavailable(f"{self.name} cannot be reached", away=self.name)) from error
        if response.status >= 500:
            failure = await failure_of(response)
            raise PeerFault(failure) if is_at_fault(self.name, failure) else failure
        return response


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


@asynccontextmanager
async def open_peers(
    settings: PeerSettings, breakers: Breakers, token: Callable[[aiohttp.ClientSession], Token]
) -> AsyncIterator[Peers]:
    """`token` is given the session and answers with what makes the Authorization header's token for each call."""
    connector = aiohttp.TCPConnector(
        limit=MAX_CONNECTIONS, keepalive_timeout=KEEP_CONNECTION_S, resolver=GuardedResolver()
    )
    async with aiohttp.ClientSession(
        connector=connector, auto_decompress=False, skip_auto_headers=["Accept-Encoding", "User-Agent", "Content-Type"]
    ) as session:
        peers = Peers(session, token(session), breakers, settings.peer_connect_timeout_s)
        async with Tasks.open() as tasks:
            tasks.every("peers", PROBE_EVERY_S, peers.probe)
            yield peers
