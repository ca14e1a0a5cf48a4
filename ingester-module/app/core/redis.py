"""What the ingester wants of Redis: the registry of elements, and nothing it could not do without."""

from __future__ import annotations

from pathlib import Path

from redis.asyncio import Redis

from artstore.discovery import Discovery
from artstore.peers import Peer
from artstore.service import Runtime


def open_discovery(runtime: Runtime, redis: Redis, admin: Peer, kept: Path | None, configured: str | None) -> Discovery:
    """The registry as the ingester follows it; not ready before an element is known."""
    discovery = Discovery(runtime, redis, admin, kept=kept, configured=configured)
    runtime.health.add("discovery", discovery.check)
    return discovery
