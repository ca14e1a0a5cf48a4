"""The client address of a request, taken from X-Forwarded-For if the proxies are trusted."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
UNKNOWN = "unknown"
"""Key for a peer without an address, such as a unix socket."""


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Addresses and CIDR networks. Raises ValueError."""
    return tuple(ipaddress.ip_network(text.strip()) for text in texts)


def find_client(peer: str | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> Address | None:
    """The nearest address that is not a trusted proxy's. X-Forwarded-For is read from its end, and only as
    far as trusted proxies wrote it."""
    address = _parse(peer or "")
    if address is None:
        return None
    hops = [hop for line in forwarded for hop in line.split(",")] if trusted else []
    while hops and any(address in network for network in trusted):
        before = _parse(hops.pop())
        if before is None:
            break
        address = before
    return address


def is_trusted(peer: str, trusted: Sequence[Network]) -> bool:
    address = _parse(peer)
    return address is not None and any(address in network for network in trusted)


def as_caller(address: Address | None) -> str:
    """The key that limits count an address under. For IPv6 it is the /64 network, because one host usually
    owns all of it."""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return UNKNOWN if address is None else str(address)


def _parse(text: str) -> Address | None:
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
