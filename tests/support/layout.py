"""Describes the processes of a fleet and the processes that each of them calls."""

from __future__ import annotations

from dataclasses import dataclass

from artstore.testing.network import Network, Proxy, Target

SMALL = ("admin-1", "admin-2", "se-01", "se-02", "ingester", "query")
LARGE = (
    *("admin-1", "admin-2", "se-01", "se-02", "se-03", "se-04"),
    *("ingester", "ingester-2", "ingester-3", "query", "query-2", "query-3"),
)
MODULES = {"admin": "admin-module", "se": "storage-element", "ingester": "ingester-module", "query": "query-module"}
EDIT = frozenset({"se-01", "se-03"})
"""Elements in mode edit; the others are in rw."""
POSTGRES, REDIS, ADMIN, CALLERS = "postgres", "redis", "admin", "callers"
"""The edges of a process: what it speaks to, and who speaks to it."""


def kind_of(name: str) -> str:
    """admin, se, ingester or query."""
    return name.partition("-")[0]


def account_of(name: str) -> str:
    """Instances of one module are one account; each element has its own."""
    return name if kind_of(name) == "se" else kind_of(name)


def admins_of(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if kind_of(name) == "admin"]


def edges_of(name: str) -> tuple[str, ...]:
    return (POSTGRES, REDIS, CALLERS) if kind_of(name) == "admin" else (POSTGRES, REDIS, ADMIN, CALLERS)


Edge = tuple[str, str]
"""(process, what it speaks to or CALLERS)."""


@dataclass(frozen=True)
class Wiring:
    """A proxy for every edge of every process."""

    proxies: dict[Edge, Proxy]

    def port(self, name: str, edge: str) -> int:
        return self.proxies[name, edge].port


def wire(network: Network, names: tuple[str, ...], ports: dict[str, int], postgres: int, redis: int) -> Wiring:
    """Admin is reached through a balancer over all of them; what is said to a process passes the edge of its callers."""
    host = "127.0.0.1"

    def targets(name: str, edge: str) -> list[Target]:
        admins = [(host, ports[admin]) for admin in admins_of(names)]
        at = {POSTGRES: [(host, postgres)], REDIS: [(host, redis)], ADMIN: admins, CALLERS: [(host, ports[name])]}
        return at[edge]

    return Wiring({(name, edge): network.proxy(*targets(name, edge)) for name in names for edge in edges_of(name)})
