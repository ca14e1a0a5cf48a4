"""Admin's keys in Redis: the published registry, a copy of the JWKS, the ends of the audit log and how far it
is verified. All of them may be lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec
from redis.asyncio import Redis

from artstore.contracts.elements import CONFIG_CHANNEL, SNAPSHOT_KEY, Snapshot
from artstore.contracts.tokens import JWKS_CHANNEL, JWKS_KEY

CHECKPOINT_KEY = "artstore:audit:checkpoint"
HEADS_KEY = "artstore:audit:heads:{}"
VERIFIED_KEY = "artstore:audit:verified"
VERIFYING_KEY = "artstore:audit:verifying"

_PUBLISH = """
local generation, version = tonumber(ARGV[2]), tonumber(ARGV[3])
local kept = redis.call('GET', KEYS[1])
if kept then
    local ok, was = pcall(cjson.decode, kept)
    if ok and type(was) == 'table' and type(was.version) == 'number' then
        local before = type(was.generation) == 'number' and was.generation or 0
        if before > generation or (before == generation and was.version >= version) then
            return {0, before, was.version}
        end
    end
end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('PUBLISH', ARGV[4], ARGV[1])
return {1, generation, version}
"""
"""Atomic, so that an admin with an older registry does not overwrite a newer one."""


async def publish_if_newer(redis: Redis, snapshot: Snapshot) -> tuple[bool, tuple[int, int]]:
    """Store and publish the snapshot unless Redis has a newer one or the same.

    Returns whether it was published, and the (generation, version) that Redis has now. Raises RedisError.
    """
    encoded, order = msgspec.json.encode(snapshot), [str(number) for number in snapshot.order]
    done, generation, version = await cast(Any, redis.eval(_PUBLISH, 1, SNAPSHOT_KEY, encoded, *order, CONFIG_CHANNEL))
    return bool(done), (int(generation), int(version))


async def store_jwks(redis: Redis, signed_jwks: bytes) -> None:
    """For verifiers that cannot reach admin. Raises RedisError."""
    await redis.set(JWKS_KEY, signed_jwks)


async def announce_key_change(redis: Redis) -> None:
    """Make verifiers and other admins fetch keys and revocations now. Raises RedisError."""
    await redis.publish(JWKS_CHANNEL, "changed")


async def store_checkpoint_number(redis: Redis, number: int) -> None:
    """Remember the number of the newest audit checkpoint outside PostgreSQL. Raises RedisError."""
    await redis.set(CHECKPOINT_KEY, number)


async def load_checkpoint_number(redis: Redis) -> int:
    """0 when Redis has none. Raises RedisError."""
    kept = await redis.get(CHECKPOINT_KEY)
    return int(kept) if kept else 0


async def store_chain_ends(redis: Redis, log_id: str, ends: Mapping[str, int]) -> None:
    """Remember the last `seq` of each audit chain outside PostgreSQL. Raises RedisError."""
    await cast(Any, redis.hset(HEADS_KEY.format(log_id), mapping={chain: str(seq) for chain, seq in ends.items()}))


async def load_chain_ends(redis: Redis, log_id: str) -> dict[str, int]:
    """Raises RedisError."""
    kept = await cast(Any, redis.hgetall(HEADS_KEY.format(log_id)))
    return {chain: int(seq) for chain, seq in kept.items() if seq.isascii() and seq.isdigit()}


async def store_verified(redis: Redis, signed: bytes) -> None:
    """Raises RedisError."""
    await redis.set(VERIFIED_KEY, signed)


async def load_verified(redis: Redis) -> bytes | str | None:
    """Raises RedisError."""
    kept: bytes | str | None = await redis.get(VERIFIED_KEY)
    return kept


async def take_verification(redis: Redis, lease_s: int) -> bool:
    """True if no other admin has the lease of the periodic verification. Raises RedisError."""
    return bool(await redis.set(VERIFYING_KEY, b"1", nx=True, ex=lease_s))


async def renew_verification(redis: Redis, lease_s: int) -> None:
    """Raises RedisError."""
    await redis.set(VERIFYING_KEY, b"1", ex=lease_s)


async def release_verification(redis: Redis) -> None:
    """Raises RedisError."""
    await redis.delete(VERIFYING_KEY)
