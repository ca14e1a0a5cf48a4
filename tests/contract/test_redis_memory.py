"""The Valkey of `up` is full of cached records: caches give way, everything else stays and works."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from redis import Redis
from support.system import System

from artstore.contracts.elements import SNAPSHOT_KEY
from artstore.contracts.tokens import JWKS_KEY

RECORD = "artstore:{files}:00000000-0000-7000-8000-%012d"
FILLED = 20_000
ROOM_BYTES = 2 << 20


@pytest.fixture
def redis(system: System) -> Iterator[Redis]:
    if system.data is None:
        pytest.skip("Redis under compose is not reachable from outside")
    with Redis.from_url((system.keys / "redis-url").read_text()) as client:
        yield client


@contextmanager
def full(redis: Redis) -> Iterator[None]:
    """Redis is full of records that live for an hour, as query writes them."""
    limit = str(redis.config_get("maxmemory")["maxmemory"])
    redis.config_set("maxmemory", redis.info("memory")["used_memory"] + ROOM_BYTES)
    try:
        with redis.pipeline(transaction=False) as pipeline:
            for number in range(FILLED):
                pipeline.set(RECORD % number, os.urandom(1000), ex=3600)
                if number % 1000 == 999:
                    pipeline.execute()
        yield
    finally:
        redis.config_set("maxmemory", limit)


def test_a_full_redis_evicts_cached_records_only_and_everything_works(system: System, redis: Redis) -> None:
    assert redis.config_get("maxmemory-policy")["maxmemory-policy"] == "volatile-lru"
    assert redis.config_get("maxmemory")["maxmemory"] != "0"
    lasting = {key for key in redis.scan_iter() if redis.ttl(key) == -1}
    assert {SNAPSHOT_KEY.encode(), JWKS_KEY.encode()} <= lasting
    evicted = redis.info("stats")["evicted_keys"]
    with full(redis), system.client() as client:
        assert redis.info("stats")["evicted_keys"] > evicted
        headers = {"content-type": "application/octet-stream"}
        for number in range(20):
            stored = client.post(
                f"{system.address}/api/files/upload?filename=a&retention=temporary", content=b"a", headers=headers
            )
            assert stored.status_code == 201, stored.text
            path = f"{system.address}/api/files/{stored.json()['file_id']}"
            changed = client.patch(path, json={"filename": f"b{number}"})
            assert changed.status_code == 200, changed.text
            read = client.get(path)
            assert (read.json()["filename"], read.headers.get("x-artstore-degraded")) == (f"b{number}", None)
            assert "ratelimit" in read.headers
        assert {key for key in lasting if redis.exists(key)} == lasting
        for name in ("admin", "ingester", "query", "se-01"):
            checks = httpx.get(f"{system.url(name)}/health/ready").json()["checks"]
            assert checks["redis"]["ok"] is True
