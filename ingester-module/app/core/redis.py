"""What the ingester wants of Redis: the registry of elements, and nothing it could not do without."""

from __future__ import annotations

from redis.asyncio import Redis

from artstore.discovery import Discovery
from artstore.peers.session import Peers
from artstore.service import Runtime

from .config import Settings


def open_discovery(runtime: Runtime, redis: Redis, peers: Peers, settings: Settings) -> Discovery:
    """The registry as the ingester follows it; not ready before an element is known."""
    discovery = Discovery(
        runtime,
        redis,
        peers.to("admin", settings.admin_url),
        kept=settings.discovery_file,
        configured=settings.storage_elements,
        taken=peers.retain,
    )
    runtime.health.add("discovery", discovery.check)
    return discovery
