"""The registry as a subscriber holds it, with a real Valkey and an admin behind a real socket."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from pydantic import SecretStr
from redis.asyncio import Redis

from artstore.clock import Clock, rfc3339
from artstore.config import RedisSettings
from artstore.contracts.elements import CONFIG_CHANNEL, SNAPSHOT_KEY, Capacity, Element, Fill, Mode, Snapshot
from artstore.discovery import SOURCES, Discovery
from artstore.metrics import new_registry
from artstore.peers.breaker import Breakers
from artstore.peers.client import Peer
from artstore.peers.session import open_peers
from artstore.redis import open_redis
from artstore.runtime import Runtime
from artstore.testing.services import ValkeyServer, start_valkey

DEADLINE_S = 120


def element(name: str, mode: Mode = Mode.EDIT) -> Element:
    now = rfc3339(Clock().now())
    return Element(
        id=name,
        url=f"http://{name}",
        mode=mode,
        backend="local",
        version="0",
        capacity=Capacity(total_bytes=1, used_bytes=0, available_bytes=1, files=0, fill=Fill.OK),
        priority=0,
        status="online",
        last_seen_at=now,
        registered_at=now,
    )


def snapshot(version: int, *names: str) -> bytes:
    elements = [element(name) for name in names]
    return msgspec.json.encode(Snapshot(version=version, published_at=rfc3339(Clock().now()), elements=elements))


@asynccontextmanager
async def admin_with(*names: str, version: int = 1) -> AsyncIterator[str]:
    """An admin whose registry has these elements; without a name, one that is broken."""

    async def listing(_request: web.Request) -> web.Response:
        if not names:
            return web.Response(status=500)
        page = {"items": [element(name) for name in names], "next_cursor": None, "version": version, "published_at": ""}
        return web.Response(body=msgspec.json.encode(page))

    app = web.Application()
    app.router.add_get("/api/storage-elements", listing)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Token:
    """Admin here asks for none."""

    async def __call__(self) -> str:
        return "token"

    def invalidate(self, token: str) -> None:
        """There is no other."""


@asynccontextmanager
async def parts(runtime: Runtime, redis_url: str, admin_url: str) -> AsyncIterator[tuple[Redis, Peer]]:
    breakers = Breakers(runtime.registry)
    settings = RedisSettings(redis_url=SecretStr(redis_url))
    async with (
        open_redis(settings, runtime, breakers) as redis,
        open_peers(breakers, lambda _session: Token()) as peers,
    ):
        yield redis, peers.to("admin", admin_url)
        await runtime.tasks.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():
            await asyncio.sleep(0.01)


async def until_subscribed(redis: Redis) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while dict(await redis.pubsub_numsub(CONFIG_CHANNEL)).get(CONFIG_CHANNEL.encode(), 0) < 1:
            await asyncio.sleep(0.01)


def names(discovery: Discovery) -> list[str]:
    return [found.id for found in discovery.elements]


def shown(runtime: Runtime) -> dict[str, float | str]:
    """The values in /metrics."""
    ask = runtime.registry.get_sample_value
    sources = [name for name in SOURCES if ask("discovery_source", {"source": name}) == 1]
    return {"discovery_age_seconds": ask("discovery_age_seconds") or 0, "discovery_source": ",".join(sources)}


@pytest.fixture
async def redis(valkey: ValkeyServer) -> AsyncIterator[Redis]:
    client = Redis.from_url(valkey.url())
    await client.flushall()
    yield client
    await client.aclose()


async def test_the_snapshot_is_read_at_once_and_changes_are_received(
    runtime: Runtime, valkey: ValkeyServer, redis: Redis
) -> None:
    await redis.set(SNAPSHOT_KEY, snapshot(1, "se-01"))
    async with admin_with() as admin_url, parts(runtime, valkey.url(), admin_url) as (own, admin):
        discovery = Discovery(runtime, own, admin)
        await until(lambda: names(discovery) == ["se-01"])
        assert discovery.source == "redis"
        await until_subscribed(redis)
        assert await redis.publish(CONFIG_CHANNEL, snapshot(2, "se-01", "se-02")) == 1
        await until(lambda: names(discovery) == ["se-01", "se-02"])
        found = discovery.find("se-02")
        assert found is not None
        assert found.url == "http://se-02"
        assert discovery.find("se-09") is None


async def test_an_older_version_or_damage_changes_nothing(runtime: Runtime, valkey: ValkeyServer, redis: Redis) -> None:
    await redis.set(SNAPSHOT_KEY, snapshot(5, "se-01"))
    async with admin_with() as admin_url, parts(runtime, valkey.url(), admin_url) as (own, admin):
        discovery = Discovery(runtime, own, admin)
        await until(lambda: names(discovery) == ["se-01"])
        for wrong in (snapshot(4, "old"), b"", b"{", b"[]", b"null", b'{"version": 9}'):
            await redis.publish(CONFIG_CHANNEL, wrong)
        await redis.publish(CONFIG_CHANNEL, snapshot(6, "se-01", "new"))
        await until(lambda: names(discovery) == ["se-01", "new"])


async def test_an_answer_of_admin_older_than_the_last_message_changes_nothing(
    runtime: Runtime, valkey: ValkeyServer, redis: Redis
) -> None:
    await redis.set(SNAPSHOT_KEY, snapshot(5, "se-01"))
    async with admin_with("old", version=4) as admin_url, parts(runtime, valkey.url(), admin_url) as (own, admin):
        discovery = Discovery(runtime, own, admin)
        await until(lambda: names(discovery) == ["se-01"])
        await discovery._ask_admin()
        assert (names(discovery), discovery.source) == (["se-01"], "redis")


async def test_a_redis_that_came_back_with_less_than_is_known_is_not_believed(
    runtime: Runtime, valkey: ValkeyServer, redis: Redis
) -> None:
    """Restarted from an old dump, or empty: admin is asked until it has published anew."""
    await redis.set(SNAPSHOT_KEY, snapshot(5, "se-01"))
    async with admin_with("new", version=6) as admin_url, parts(runtime, valkey.url(), admin_url) as (own, admin):
        discovery = Discovery(runtime, own, admin)
        await until(lambda: names(discovery) == ["se-01"])
        await redis.set(SNAPSHOT_KEY, snapshot(3, "old"))
        await until(lambda: names(discovery) == ["new"])
        assert discovery.source == "admin"
        await redis.delete(SNAPSHOT_KEY)
        await redis.set(SNAPSHOT_KEY, snapshot(7, "newest"))
        await until(lambda: (names(discovery), discovery.source) == (["newest"], "redis"))


async def test_a_message_that_was_missed_is_made_good(runtime: Runtime, valkey: ValkeyServer, redis: Redis) -> None:
    """The subscription is up, but the snapshot in the key was not published."""
    await redis.set(SNAPSHOT_KEY, snapshot(1, "se-01"))
    async with admin_with() as admin_url, parts(runtime, valkey.url(), admin_url) as (own, admin):
        discovery = Discovery(runtime, own, admin)
        await until(lambda: names(discovery) == ["se-01"])
        await redis.set(SNAPSHOT_KEY, snapshot(2, "se-01", "se-02"))
        await until(lambda: names(discovery) == ["se-01", "se-02"])


async def test_a_subscription_lost_silently_is_made_good(runtime: Runtime, tmp_path: Path) -> None:
    """SIGSTOP leaves every connection open and unanswered, as a cut cable does."""
    server = start_valkey(tmp_path)
    client = Redis.from_url(server.url())
    await client.set(SNAPSHOT_KEY, snapshot(1, "se-01"))
    async with (
        admin_with("from-admin", version=2) as admin_url,
        parts(runtime, server.url(), admin_url) as (own, admin),
    ):
        discovery = Discovery(runtime, own, admin)
        await until(lambda: names(discovery) == ["se-01"])
        server.process.send_signal(signal.SIGSTOP)
        try:
            await until(lambda: (names(discovery), discovery.source) == (["from-admin"], "admin"))
        finally:
            server.process.send_signal(signal.SIGCONT)
        await client.set(SNAPSHOT_KEY, snapshot(3, "se-03"))
        await until(lambda: (names(discovery), discovery.source) == (["se-03"], "redis"))
        await until_heard(client)
        await client.publish(CONFIG_CHANNEL, snapshot(4, "se-04"))
        await until(lambda: names(discovery) == ["se-04"])
    await client.aclose()
    server.stop()


async def until_heard(client: Redis) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while dict(await client.pubsub_numsub(CONFIG_CHANNEL))[CONFIG_CHANNEL.encode()] != 1:
            await asyncio.sleep(0.05)


async def test_without_redis_admin_is_asked(runtime: Runtime) -> None:
    async with admin_with("se-07") as admin_url, parts(runtime, "redis://127.0.0.1:1", admin_url) as (own, admin):
        discovery = Discovery(runtime, own, admin)
        await until(lambda: names(discovery) == ["se-07"])
        assert discovery.source == "admin"
        await discovery.check()


async def test_what_redis_said_is_kept_for_the_next_start(
    runtime: Runtime, valkey: ValkeyServer, redis: Redis, tmp_path: Path
) -> None:
    file = tmp_path / "registry.json"
    await redis.set(SNAPSHOT_KEY, snapshot(3, "se-01"))
    async with admin_with() as admin_url, parts(runtime, valkey.url(), admin_url) as (own, admin):
        first = Discovery(runtime, own, admin, file=file)
        await until(lambda: names(first) == ["se-01"] and file.exists())


async def test_a_start_alone_knows_the_elements_of_the_last_run(runtime: Runtime, tmp_path: Path) -> None:
    file = tmp_path / "registry.json"
    file.write_bytes(snapshot(3, "se-01"))
    os.utime(file, (time.time() - 7200,) * 2)
    async with admin_with() as admin_url, parts(runtime, "redis://127.0.0.1:1", admin_url) as (own, admin):
        discovery = Discovery(runtime, own, admin, file=file, fallback=None)
        assert names(discovery) == ["se-01"]
        assert 7200 <= discovery.age_s < 7300
        assert "1 elements from file, confirmed 72" in await discovery.check()
        assert float(shown(runtime)["discovery_age_seconds"]) >= 7200
        assert shown(runtime)["discovery_source"] == "file"


async def test_a_first_start_alone_knows_what_is_configured(runtime: Runtime) -> None:
    fallback = msgspec.json.encode([element("se-05")]).decode()
    async with admin_with() as admin_url, parts(runtime, "redis://127.0.0.1:1", admin_url) as (own, admin):
        discovery = Discovery(runtime, own, admin, fallback=fallback)
        assert names(discovery) == ["se-05"]
        assert await discovery.check() == "1 elements from settings, never confirmed"
        assert shown(runtime) == {"discovery_age_seconds": math.inf, "discovery_source": "settings"}


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff\xff"])
async def test_a_damaged_kept_file_does_not_stop_the_start(runtime: Runtime, tmp_path: Path, damage: bytes) -> None:
    file = tmp_path / "registry.json"
    file.write_bytes(damage)
    async with admin_with() as admin_url, parts(runtime, "redis://127.0.0.1:1", admin_url) as (own, admin):
        discovery = Discovery(runtime, own, admin, file=file)
        with pytest.raises(ConnectionError):
            await discovery.check()
        fallback = msgspec.json.encode([element("se-05")]).decode()
    other = replace(runtime, registry=new_registry())
    async with admin_with() as admin_url, parts(other, "redis://127.0.0.1:1", admin_url) as (own, admin):
        assert names(Discovery(other, own, admin, file=file, fallback=fallback)) == ["se-05"]


async def test_anything_published_replaces_what_was_kept(
    runtime: Runtime, valkey: ValkeyServer, redis: Redis, tmp_path: Path
) -> None:
    """A registry made anew counts its versions from the beginning."""
    file = tmp_path / "registry.json"
    file.write_bytes(snapshot(900, "old"))
    await redis.set(SNAPSHOT_KEY, snapshot(1, "new"))
    async with admin_with() as admin_url, parts(runtime, valkey.url(), admin_url) as (own, admin):
        discovery = Discovery(runtime, own, admin, file=file)
        await until(lambda: names(discovery) == ["new"])
