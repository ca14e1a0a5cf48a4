"""A Redis or Valkey Cluster: which master serves which slot, and a client for each master.

All keys of one command of ours have the same slot, and there are about ten such slots. So their masters are learned from
MOVED; the whole map of slots is never read. A slot on its way from one master to another key by key (ASK, TRYAGAIN) counts
as an outage. docs/decisions/0023-past-one-machine.md says why.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError
from redis.exceptions import TimeoutError as RedisTimeoutError

Address = tuple[str, int]
HOME = "artstore:{files}:"
"""Keys with this prefix share a slot. Its master is the home: what depends on the order of several commands, the
subscriptions and the probes are there."""
HOME_SLOT = key_slot(HOME.encode())
DEFAULT_PORT = 6379
MAX_MOVES = 5
"""Redirections of one command. More than two of them mean that the nodes do not agree yet."""
MAX_NODES = 64
"""Addresses that a process remembers. A node that is replaced may come back under another address each time."""
_URL = re.compile(r"(?P<scheme>rediss?)\+cluster://(?P<login>[^/?#]*@)?(?P<hosts>[^@/?#]+)(?:/0?)?(?P<query>\?.*)?")


def is_cluster(url: str) -> bool:
    return "+cluster://" in url


class ClusterUrl:
    """`redis+cluster://[[USER]:PASSWORD@]HOST[:PORT][,HOST[:PORT]…]`, or `rediss+cluster://`. Raises ValueError."""

    def __init__(self, url: str) -> None:
        found = _URL.fullmatch(url)
        if found is None:
            raise ValueError("must be redis+cluster://[USER:PASSWORD@]HOST[:PORT],… with database 0 or none")
        self._scheme, self._login, self._query = found["scheme"], found["login"] or "", found["query"] or ""
        parts = [urlsplit(f"redis://{host}") for host in found["hosts"].split(",")]
        if not all(part.hostname for part in parts):
            raise ValueError("names an empty host")
        self.seeds: Sequence[Address] = [(part.hostname or "", part.port or DEFAULT_PORT) for part in parts]

    def of_node(self, address: Address) -> str:
        """The URL of one node, for a client of a single server."""
        host, port = address
        return f"{self._scheme}://{self._login}{f'[{host}]' if ':' in host else host}:{port}{self._query}"


class Cluster:
    """Sends each command to the master of its slot and follows MOVED. `open_node` makes the client of one node."""

    def __init__(self, url: ClusterUrl, open_node: Callable[[str], Redis]) -> None:
        self._url, self._open_node = url, open_node
        self._clients: dict[Address, Redis] = {}
        self._known = list(url.seeds)
        """Nodes to ask for slots without a known master; one that failed goes to the end."""
        self._masters: dict[int, Address] = {}
        self.home_moved_s = float("-inf")
        """When this process learned that the home is another server than before."""
        self._last_home: Address | None = None

    @property
    def home(self) -> Redis:
        return self._client(self._master_of(HOME_SLOT))

    @property
    def clients(self) -> list[Redis]:
        return list(self._clients.values())

    async def send(self, *args: Any, **options: Any) -> Any:
        slot = slot_of(args)
        return await self.follow(slot, lambda client: client.execute_command(*args, **options))

    async def follow(self, slot: int, send: Callable[[Redis], Awaitable[Any]]) -> Any:
        """Calls `send` with the slot's master until no MOVED comes back. Raises what `send` raises."""
        for _ in range(MAX_MOVES):
            address = self._master_of(slot)
            try:
                answer = await send(self._client(address))
            except MovedError as moved:
                master = (str(moved.host) or address[0], moved.port)
                await self._make_room_for(master)
                self._learn(slot, master)
            except (RedisConnectionError, RedisTimeoutError, OSError):
                self._forget(address)
                raise
            else:
                self._learn(slot, address)
                return answer
        raise RedisConnectionError("the nodes of the cluster do not agree on a slot yet")

    async def aclose(self) -> None:
        for client in self.clients:
            await client.aclose()
            await client.connection_pool.disconnect()

    def _master_of(self, slot: int) -> Address:
        return self._masters.get(slot, self._known[0])

    def _client(self, address: Address) -> Redis:
        if address not in self._clients:
            self._clients[address] = self._open_node(self._url.of_node(address))
        return self._clients[address]

    def _learn(self, slot: int, address: Address) -> None:
        if self._masters.get(slot) == address:
            return
        self._masters[slot] = address
        if address not in self._known:
            self._known.append(address)
        if slot == HOME_SLOT and address != self._last_home:
            if self._last_home is not None:
                self.home_moved_s = time.monotonic()
            self._last_home = address

    async def _make_room_for(self, address: Address) -> None:
        """Drops the node that failed last, unless it is in use or named by the URL."""
        if address in self._known or len(self._known) < MAX_NODES:
            return
        kept = {*self._url.seeds, *self._masters.values()}
        gone = next((one for one in reversed(self._known) if one not in kept), None)
        if gone is None:
            return
        self._known.remove(gone)
        client = self._clients.pop(gone, None)
        if client is not None:
            await client.connection_pool.disconnect()

    def _forget(self, address: Address) -> None:
        """A node that does not answer may have a successor, which the other nodes know."""
        self._masters = {slot: master for slot, master in self._masters.items() if master != address}
        if address in self._known:
            self._known.remove(address)
            self._known.append(address)


def slot_of(args: Sequence[Any]) -> int:
    """The slot of a command's first key; HOME_SLOT for a command without keys."""
    key = next(_keys_of(args), None)
    if key is None:
        return HOME_SLOT
    return key_slot(key if isinstance(key, bytes) else str(key).encode())


def _keys_of(args: Sequence[Any]) -> Iterator[Any]:
    name = str(args[0]).upper()
    if name in ("EVAL", "EVALSHA"):
        yield from args[3 : 3 + int(args[2])]
    elif name not in KEYLESS:
        yield from args[1:2]


KEYLESS = frozenset({"PUBLISH", "PING", "INFO", "SCRIPT LOAD"})
