"""Decides to which addresses a service may connect for a URL that it was given (OWASP: server-side request forgery).

An element's URL is only an origin. Elements run on loopback and private networks, so those are allowed.
Link-local, multicast, unspecified and reserved addresses are not: clouds serve metadata and credentials
there.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

MAX_URL_CHARS = 255
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.(?!-)[a-z0-9_-]{1,63})*\.?", re.IGNORECASE)
_NUMERIC = re.compile(r"(0x[0-9a-f]*|[0-9]+)\.?", re.IGNORECASE)
"""A last label of this form makes the whole name an unusual spelling of an IPv4 address (WHATWG URL); only
the usual one is accepted."""
_METADATA_NAMES = frozenset(
    {"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
)
_METADATA = frozenset({"100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"})
"""Metadata addresses of clouds that are not link-local."""


def find_fault(url: str) -> str | None:
    """The reason why the URL must not be called, or None."""
    wanted = "an element's url must be http(s)://host[:port]"
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url or len(url) > MAX_URL_CHARS:
        return wanted
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return wanted
    if parts.scheme not in ("http", "https") or not host or port == 0 or "@" in parts.netloc:
        return wanted
    if parts.path not in ("", "/") or "?" in url or "#" in url:
        return wanted
    return _fault_of_host(host)


def _fault_of_host(host: str) -> str | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if not _NAME.fullmatch(host) or _NUMERIC.fullmatch(host.rstrip(".").rpartition(".")[2]):
            return "the url's host is neither a valid name nor an address"
        return "the url's host is a cloud's metadata service" if host.rstrip(".").lower() in _METADATA_NAMES else None
    return None if may_call(str(address)) else "the url's address is not allowed for an element"


def may_call(address: str) -> bool:
    """True if connections to the IP address are allowed."""
    given = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(given, ipaddress.IPv6Address):
        inner = given.ipv4_mapped or given.sixtofour
        if inner is not None:
            return may_call(str(inner))
        if given.teredo is not None:
            return False  # a tunnel through a server that the address names
    if given.is_loopback:
        return True
    closed = given.is_link_local or given.is_multicast or given.is_unspecified or given.is_reserved
    return not closed and str(given) not in _METADATA


class GuardedResolver(AbstractResolver):
    """Checks the addresses at each connection, because a name may resolve to another address after its
    registration. Addresses in URLs are not resolved; `find_fault` has checked them."""

    def __init__(self) -> None:
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = [one for one in await self._inner.resolve(host, port, family) if may_call(one["host"])]
        if not found:
            raise OSError(None, "the name resolves to an address that is not allowed")
        return found

    async def close(self) -> None:
        await self._inner.close()
