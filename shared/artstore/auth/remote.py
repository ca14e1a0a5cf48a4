"""The verifier of every service but admin: keys from admin, else the file kept last and Redis; asked for in the background."""

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
"""Before a lost subscription is tried again; meanwhile the periodic refresh does its work."""


def open_verifier(
    runtime: Runtime, settings: AdminClientSettings, audience: Audience, admin: Peer, redis: Redis
) -> TokenVerifier:
    """Adds the health check `signing_keys`: while no key is known nobody can be let in."""

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
    return TokenVerifier(keys, audience, runtime.clock)
