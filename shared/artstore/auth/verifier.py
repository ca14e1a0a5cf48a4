"""The token verifier of every service except admin: keys come from admin, else from a file and Redis, and are
refreshed in the background."""

from __future__ import annotations

from functools import partial

from redis.asyncio import Redis
from redis.exceptions import RedisError

from artstore.auth.keys import RemoteKeys
from artstore.auth.tokens import TokenVerifier
from artstore.config import AdminClientSettings
from artstore.contracts.tokens import JWKS_CHANNEL, JWKS_KEY, Audience
from artstore.errors import ArtStoreError
from artstore.peers.client import Peer
from artstore.redis import listen
from artstore.runtime import Runtime

FETCH_TIMEOUT_S = 3.0
LISTEN_PAUSE_S = 1.0
"""Pause before a lost subscription is repeated; the periodic refresh continues meanwhile."""


def open_verifier(
    runtime: Runtime, settings: AdminClientSettings, audience: Audience, admin: Peer, redis: Redis
) -> TokenVerifier:
    return TokenVerifier(open_keys(runtime, settings, admin, redis), audience, runtime.clock)


def open_keys(runtime: Runtime, settings: AdminClientSettings, admin: Peer, redis: Redis) -> RemoteKeys:
    """Opens admin's keys and adds the health check `signing_keys`, which fails while no key is known."""

    async def from_admin() -> bytes | None:
        try:
            answer = await admin.call("GET", "/.well-known/jwks.json", timeout_s=FETCH_TIMEOUT_S)
        except ArtStoreError:
            return None
        return answer.body

    async def from_redis() -> bytes | None:
        try:
            document: str | None = await redis.get(JWKS_KEY)  # type: ignore[assignment]  # decode_responses
        except RedisError:
            return None
        return document.encode() if document else None

    keys = RemoteKeys([("admin", from_admin)], settings.jwks_file, runtime.clock, signed_copy=from_redis)
    runtime.tasks.every("signing-keys", settings.jwks_refresh_s, keys.refresh)
    runtime.tasks.forever(
        "signing-keys-changed",
        partial(listen, redis, {JWKS_CHANNEL: keys.changed}, subscribed=keys.refresh),
        LISTEN_PAUSE_S,
    )
    runtime.health.add("signing_keys", keys.check, timeout_s=2 * FETCH_TIMEOUT_S)
    return keys
