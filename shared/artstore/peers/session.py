"""All peers of one process: their shared connections, and the task that detects peers that recover or hang."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver

from artstore.errors import ADMIN
from artstore.logs import get_logger
from artstore.peers.addresses import GuardedResolver
from artstore.peers.breaker import Breaker, Breakers
from artstore.peers.client import Peer, Token
from artstore.peers.connections import KEEP_CONNECTION_S, PeerConnections
from artstore.peers.faults import PeerFault
from artstore.peers.liveness import LIVE_TIMEOUT_S, LoopLag, PendingRequests
from artstore.peers.pools import Pools
from artstore.tasks import Tasks

log = get_logger("artstore.peers")
CONNECT_TIMEOUT_S = 2.0
"""A service in the same network accepts a connection in milliseconds; one that does not is down or
unreachable."""
PROBE_EVERY_S = 1.0
"""How often the readiness of a peer with an open breaker, and the liveness of a peer that does not answer,
are checked."""


@dataclass(slots=True)
class _PeerState:
    """The state that all requests to one peer share."""

    name: str
    url: str
    connections: PeerConnections
    breaker: Breaker
    pools: Pools
    pending: PendingRequests = field(default_factory=PendingRequests)
    peer: Peer | None = None
    probing: bool = False
    """A probe of its readiness or liveness is in progress."""


class Peers:
    """The other services, as seen from this process."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        resolver: AbstractResolver,
        token: Token,
        breakers: Breakers,
        connect_timeout_s: float,
        tasks: Tasks,
    ) -> None:
        self._session, self._resolver, self._token, self._breakers = session, resolver, token, breakers
        self._connect_timeout_s, self._tasks = connect_timeout_s, tasks
        self._states: dict[str, _PeerState] = {}
        self._lag = LoopLag()
        tasks.start("loop-lag", self._lag.watch())

    def to(self, name: str, url: str) -> Peer:
        """The peer called `name`, a module or an element; the name appears in errors and metrics."""
        url = url.rstrip("/")
        state = self._states.get(name)
        if state is None:
            breaker = self._breakers.to(name, (PeerFault,))
            state = self._states[name] = _PeerState(name, url, self._connections_to(url), breaker, Pools(name))
        if state.url != url:
            state.connections.close_idle()
            state.url, state.connections, state.peer = url, self._connections_to(url), None
        if state.peer is None:
            state.peer = Peer(
                name,
                url,
                self._session,
                state.connections,
                self._token,
                state.breaker,
                self._connect_timeout_s,
                state.pools,
                state.pending,
                self._lag,
            )
        return state.peer

    def retain(self, elements: Collection[str]) -> None:
        """Removes the state, breaker and metric series of every element that is not in `elements` any more."""
        for name in self._states.keys() - set(elements) - {ADMIN}:
            self._states.pop(name).connections.close_idle()
            self._breakers.forget(name)

    def close(self) -> None:
        """Closes the kept connections."""
        for state in self._states.values():
            state.connections.close_idle()

    def _connections_to(self, url: str) -> PeerConnections:
        return PeerConnections(url, self._resolver, self._connect_timeout_s)

    def refused(self) -> list[str]:
        """Names of the peers whose open breaker would refuse a call now."""
        return [state.name for state in self._states.values() if state.breaker.refuses]

    async def probe(self) -> None:
        """One round over all peers. Each is probed in its own task, so a peer that does not answer delays no
        other."""
        for state in self._states.values():
            state.connections.close_idle(KEEP_CONNECTION_S)
            if not state.probing and (not state.breaker.closed or state.pending.silent()):
                state.probing = True
                self._tasks.start(f"probe:{state.name}", self._probe_one(state))

    async def _probe_one(self, state: _PeerState) -> None:
        try:
            began_s = asyncio.get_running_loop().time()
            if state.pending.silent() and await self._status(state, "/health/live", LIVE_TIMEOUT_S) is None:
                if self._lag.late_since(began_s):
                    return
                log.warning("peer hangs", peer=state.name, requests_given_up=state.pending.give_up())
            elif (
                not state.breaker.closed and await self._status(state, "/health/ready", self._connect_timeout_s) == 200
            ):
                # close the breaker now instead of waiting for its half-open probe
                log.info("peer ready again", peer=state.name)
                state.breaker.heal()
        finally:
            state.probing = False

    async def _status(self, state: _PeerState, path: str, timeout_s: float) -> int | None:
        """The status of a GET that bypasses breaker and pools; None without a response."""
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=self._connect_timeout_s)
        try:
            async with self._session.get(state.url + path, timeout=timeout) as answer:
                return answer.status
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None


class _ClientRequest(aiohttp.ClientRequest):
    """aiohttp writes the body in a task whose exception is never retrieved. Such a failure also closes the
    connection, which the wait for the response reports, so it is only logged here."""

    async def write_bytes(self, *given: Any, **named: Any) -> None:
        try:
            await super().write_bytes(*given, **named)
        except (aiohttp.ClientError, OSError) as error:
            log.debug("body not sent", error=str(error) or type(error).__name__)


@asynccontextmanager
async def open_peers(breakers: Breakers, token: Callable[[aiohttp.ClientSession], Token]) -> AsyncIterator[Peers]:
    """`token` gets the session and returns the source of the access token for the calls."""
    # No limit here, because its waits would count against the peer: the pools of each peer limit the open requests.
    resolver = GuardedResolver()
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_CONNECTION_S, resolver=resolver)
    async with (
        aiohttp.ClientSession(
            connector=connector,
            request_class=_ClientRequest,
            auto_decompress=False,
            skip_auto_headers=["Accept-Encoding", "User-Agent", "Content-Type"],
        ) as session,
        Tasks.open() as tasks,
    ):
        peers = Peers(session, resolver, token(session), breakers, CONNECT_TIMEOUT_S, tasks)
        tasks.every("peers", PROBE_EVERY_S, peers.probe)
        try:
            yield peers
        finally:
            peers.close()
