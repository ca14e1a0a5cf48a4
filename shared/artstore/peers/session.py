"""All peers of one process: the connections they share, and the task that finds a peer back, or hanging."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from artstore.config import PeerSettings
from artstore.logs import get_logger
from artstore.peers.addresses import GuardedResolver
from artstore.peers.breaker import Breaker, Breakers
from artstore.peers.client import Peer, Token
from artstore.peers.faults import PeerFault
from artstore.peers.pools import Pools
from artstore.peers.waits import LIVE_TIMEOUT_S, OwnLag, Waits
from artstore.tasks import Tasks

log = get_logger("artstore.peers")

ADMIN = "admin"
"""The one peer that is not an element."""
KEEP_CONNECTION_S = 30
CONNECT_TIMEOUT_S = 2.0
"""A service in the same network accepts a connection in milliseconds; one that does not is down or unreachable."""
PROBE_EVERY_S = 1.0
"""How often a peer whose breaker is open is asked whether it is ready again, and one that keeps a request waiting, whether it
lives."""


@dataclass(slots=True)
class _Line:
    """What this process knows of one peer."""

    name: str
    url: str
    breaker: Breaker
    pools: Pools
    waits: Waits = field(default_factory=Waits)
    asking: bool = False
    """It is being asked whether it is ready, or alive."""


class Peers:
    """All other modules, as seen from this process."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        token: Token,
        breakers: Breakers,
        connect_timeout_s: float,
        tasks: Tasks,
    ) -> None:
        self._session, self._token, self._breakers = session, token, breakers
        self._connect_timeout_s, self._tasks = connect_timeout_s, tasks
        self._lines: dict[str, _Line] = {}
        self._lag = OwnLag()
        tasks.start("own-lag", self._lag.watch())

    def to(self, name: str, url: str) -> Peer:
        """`name` is a module's or an element's: it names the breaker and stands in errors."""
        url = url.rstrip("/")
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = _Line(name, url, self._breakers.to(name, (PeerFault,)), Pools(name))
        line.url = url
        return Peer(
            name,
            url,
            self._session,
            self._token,
            line.breaker,
            self._connect_timeout_s,
            line.pools,
            line.waits,
            self._lag,
        )

    def retain(self, elements: Collection[str]) -> None:
        """Forget elements that are not in the registry any more: their pools, and their breakers with the series of these."""
        for name in self._lines.keys() - set(elements) - {ADMIN}:
            del self._lines[name]
            self._breakers.forget(name)

    def refused(self) -> list[str]:
        """Those that a call now would not reach, since their breaker is open."""
        return [line.name for line in self._lines.values() if line.breaker.refuses]

    async def probe(self) -> None:
        """One round over all peers. One that does not answer holds up no other: each is asked in a task of its own."""
        for line in self._lines.values():
            if not line.asking and (not line.breaker.closed or line.waits.silent()):
                line.asking = True
                self._tasks.start(f"probe:{line.name}", self._ask(line))

    async def _ask(self, line: _Line) -> None:
        try:
            began_s = asyncio.get_running_loop().time()
            if line.waits.silent() and await self._status(line, "/health/live", LIVE_TIMEOUT_S) is None:
                if self._lag.late_since(began_s):
                    return
                log.warning("peer hangs", peer=line.name, requests_given_up=line.waits.give_up())
            elif not line.breaker.closed and await self._status(line, "/health/ready", self._connect_timeout_s) == 200:
                # a peer that is ready again need not wait for the half-open call
                log.info("peer is back", peer=line.name)
                line.breaker.heal()
        finally:
            line.asking = False

    async def _status(self, line: _Line, path: str, timeout_s: float) -> int | None:
        """Past breaker and pools. None: no answer."""
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=self._connect_timeout_s)
        try:
            async with self._session.get(line.url + path, timeout=timeout) as answer:
                return answer.status
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None


class _ClientRequest(aiohttp.ClientRequest):
    """The library writes the body in a task of its own, and nobody asks that task for a failure of the 100-continue or of the
    body's end. Both close the connection, and that is what the wait for the answer reports."""

    async def write_bytes(self, *given: Any, **named: Any) -> None:
        try:
            await super().write_bytes(*given, **named)
        except (aiohttp.ClientError, OSError) as error:
            log.debug("body not sent", error=str(error) or type(error).__name__)


@asynccontextmanager
async def open_peers(
    settings: PeerSettings, breakers: Breakers, token: Callable[[aiohttp.ClientSession], Token]
) -> AsyncIterator[Peers]:
    """`token` is given the session and answers with what makes the Authorization header's token for each call."""
    # No limit here, whose waits would count as the peer's: the pools of each peer limit what is open.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_CONNECTION_S, resolver=GuardedResolver())
    async with (
        aiohttp.ClientSession(
            connector=connector,
            request_class=_ClientRequest,
            auto_decompress=False,
            skip_auto_headers=["Accept-Encoding", "User-Agent", "Content-Type"],
        ) as session,
        Tasks.open() as tasks,
    ):
        peers = Peers(session, token(session), breakers, CONNECT_TIMEOUT_S, tasks)
        tasks.every("peers", PROBE_EVERY_S, peers.probe)
        yield peers
