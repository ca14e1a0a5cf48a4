"""What admin keeps in Redis: the published registry, a copy of the JWKS, and how far the audit log went. All can be lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec
from redis.asyncio import Redis

from artstore.contracts.elements import CONFIG_CHANNEL, SNAPSHOT_KEY, Snapshot
from artstore.contracts.tokens import JWKS_CHANNEL, JWKS_KEY

CHECKPOINT_KEY = "artstore:audit:checkpoint"
HEADS_KEY = "artstore:audit:heads:{}"

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
"""Atomic, so that of two admins the one with the older registry does not overwrite the newer."""


async def publish_if_newer(redis: Redis, snapshot: Snapshot) -> tuple[bool, tuple[int, int]]:
    """Whether Redis had an older registry or none, and now has this one and has told the channel; and the (generation,
    version) that Redis has now. Raises RedisError."""
    encoded, order = msgspec.json.encode(snapshot), [str(number) for number in snapshot.order]
    done, generation, version = await cast(Any, redis.eval(_PUBLISH, 1, SNAPSHOT_KEY, encoded, *order, CONFIG_CHANNEL))
    return bool(done), (int(generation), int(version))


async def keep_jwks(redis: Redis, signed_jwks: bytes) -> None:
    """For verifiers that cannot reach admin. Raises RedisError."""
    await redis.set(JWKS_KEY, signed_jwks)


async def tell_of_keys(redis: Redis) -> None:
    """Verifiers and the other admins then ask for the keys and revocations at once. Raises RedisError."""
    await redis.publish(JWKS_CHANNEL, "changed")


async def keep_checkpoint_number(redis: Redis, number: int) -> None:
    """A second memory of how far the audit checkpoints go. Raises RedisError."""
    await redis.set(CHECKPOINT_KEY, number)


async def known_checkpoint_number(redis: Redis) -> int:
    """0 when Redis knows none. Raises RedisError."""
    kept = await redis.get(CHECKPOINT_KEY)
    return int(kept) if kept else 0


async def keep_audit_heads(redis: Redis, log_id: str, ends: Mapping[str, int]) -> None:
    """A second memory of how far each audit chain goes. Raises RedisError."""
    await cast(Any, redis.hset(HEADS_KEY.format(log_id), mapping={chain: str(seq) for chain, seq in ends.items()}))


async def known_audit_heads(redis: Redis, log_id: str) -> dict[str, int]:
    """Raises RedisError."""
    kept = await cast(Any, redis.hgetall(HEADS_KEY.format(log_id)))
    return {chain: int(seq) for chain, seq in kept.items() if seq.isascii() and seq.isdigit()}
