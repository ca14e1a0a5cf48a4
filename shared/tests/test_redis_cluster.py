"""A Valkey Cluster of three masters behind the client: every slot is reached, and what moves, freezes or dies is followed or
counts as away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError

from artstore.catalog.recent import FIND, KEEP, keys_of
from artstore.config import RedisSettings
from artstore.limits.gcra import Quota
from artstore.limits.limiter import PREFIX
from artstore.peers.breaker import Breakers
from artstore.redis import CountedRedis, listen, open_redis
from artstore.redis_cluster import HOME, HOME_SLOT, MAX_NODES, Cluster, ClusterUrl, slot_of
from artstore.runtime import Runtime
from artstore.testing.services import frozen, temporary_folder
from artstore.testing.valkey_cluster import ValkeyCluster, running_cluster

DEADLINE_S = 60
FILES = [f"0197aaaa-0000-7000-8000-{number:012x}" for number in range(8)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[ValkeyCluster]:
    with temporary_folder("artstore-cluster-") as folder, running_cluster(folder) as started:
        yield started


@asynccontextmanager
async def opened(runtime: Runtime, url: str) -> AsyncIterator[CountedRedis]:
    async with open_redis(RedisSettings(redis_url=SecretStr(url)), runtime, Breakers(runtime.registry)) as redis:
        await until(lambda: redis.takes_writes)
        yield redis
        await runtime.tasks.close()


@asynccontextmanager
async def hearing(runtime: Runtime, redis: CountedRedis) -> AsyncIterator[list[str]]:
    heard: list[str] = []

    async def hear(message: str) -> None:
        heard.append(message)

    async def begin() -> None:
        heard.append("subscribed")

    runtime.tasks.forever("hearing", lambda: listen(redis, {"channel": hear}, subscribed=begin))
    await until(lambda: heard == ["subscribed"])
    yield heard


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():
            await asyncio.sleep(0.02)


def detail(runtime: Runtime) -> str:
    return str(runtime.health.report()["checks"]["redis"]["detail"])


@pytest.mark.parametrize(
    ("url", "seeds", "node"),
    [
        ("redis+cluster://one", [("one", 6379)], "redis://one:6379"),
        ("redis+cluster://:s3cret@one:1,two:2/0", [("one", 1), ("two", 2)], "redis://:s3cret@one:1"),
        ("rediss+cluster://u:p%40@[::1]:1,two?ssl_cert_reqs=none", [("::1", 1), ("two", 6379)],
         "rediss://u:p%40@[::1]:1?ssl_cert_reqs=none"),
    ],
)  # fmt: skip
def test_a_url_names_several_nodes(url: str, seeds: list[tuple[str, int]], node: str) -> None:
    parsed = ClusterUrl(url)
    assert (list(parsed.seeds), parsed.of_node(seeds[0])) == (seeds, node)


@pytest.mark.parametrize(
    "url", ["redis+cluster://", "redis+cluster://one/3", "redis+cluster://one,,two", "x+cluster://a"]
)
def test_a_url_that_no_cluster_can_have_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"must be|empty host"):
        ClusterUrl(url)


def test_the_keys_of_each_script_have_one_slot_and_commands_without_keys_go_to_the_home() -> None:
    assert {slot_of(("GET", key)) for each in FILES for key in keys_of(each)} == {HOME_SLOT}
    assert len({slot_of(("GET", f"{PREFIX}{caller}")) for caller in ("account:1", "address:::1")}) == 1
    assert slot_of(("PUBLISH", "files:changed", "x")) == slot_of(("EVAL", "return 1", 0)) == HOME_SLOT
    assert slot_of(("EVALSHA", "f", 1, b"{files}")) == HOME_SLOT != slot_of(("BLPOP", "other", 1))


async def test_every_slot_is_reached_by_commands_and_scripts(runtime: Runtime, cluster: ValkeyCluster) -> None:
    async with opened(runtime, cluster.url()) as redis:
        script = redis.register_script("return redis.call('GET', KEYS[1])")
        for number in range(24):
            await redis.set(f"key{number}", number)
        assert [await script([f"key{number}"]) for number in range(24)] == [str(number) for number in range(24)]
        assert {cluster.master_of(f"key{number}").port for number in range(24)} == {node.port for node in cluster.nodes}


async def test_cached_files_and_limits_of_many_callers_share_scripts(runtime: Runtime, cluster: ValkeyCluster) -> None:
    async with opened(runtime, cluster.url()) as redis:
        find, keep = redis.register_script(FIND), redis.register_script(KEEP)
        keys = [key for each in FILES for key in keys_of(each)]
        leases = [found[2] for found in await find(keys, ["epoch", "token", 60, *["record"] * len(FILES)])]
        kept = await keep(keys, ["epoch", 60, *[part for lease in leases for part in (1, "attributes", lease)]])
        assert kept == [1] * len(FILES)
        quota = Quota("account", 60, 2)
        decisions = await asyncio.gather(*(runtime.limiter.take(f"account:{one % 4}", quota) for one in range(12)))
        assert [decision.allowed for decision in decisions].count(True) == 8
        assert cluster.master_of(f"{PREFIX}account:1").run("EXISTS", f"{PREFIX}account:1") == 1


async def test_a_slot_that_moves_is_away_and_then_followed_with_subscriptions(
    runtime: Runtime, cluster: ValkeyCluster
) -> None:
    async with opened(runtime, cluster.url()) as redis, hearing(runtime, redis) as heard:
        await redis.set(f"{HOME}kept", "value")
        generation = redis.generation
        with cluster.moving(HOME_SLOT):
            await until(lambda: not redis.takes_writes)
            await until(lambda: "moving the data" in detail(runtime))
        await until(lambda: redis.takes_writes)
        assert await redis.get(f"{HOME}kept") == "value"
        assert redis.generation > generation
        assert redis.moved_s > float("-inf")
        await until(lambda: heard == ["subscribed", "subscribed"])
        assert await redis.publish("channel", "after the move") == 1
        await until(lambda: heard[-1] == "after the move")


async def test_another_slot_that_has_moved_is_followed_within_the_command(
    runtime: Runtime, cluster: ValkeyCluster
) -> None:
    async with opened(runtime, cluster.url()) as redis:
        await redis.set("elsewhere", "value")
        with cluster.moving(slot_of(("GET", "elsewhere"))):
            pass
        assert await redis.get("elsewhere") == "value"
        assert redis.takes_writes


async def test_a_dead_master_without_a_replica_is_away_until_it_returns(
    runtime: Runtime, cluster: ValkeyCluster
) -> None:
    """The cluster then refuses every slot (cluster-require-full-coverage)."""
    async with opened(runtime, cluster.url()) as redis, hearing(runtime, redis) as heard:
        victim = cluster.master_of(HOME)
        victim.kill()
        await until(lambda: not redis.takes_writes)
        with pytest.raises(RedisConnectionError):
            await redis.get(f"{HOME}kept")
        victim.start()
        await until(lambda: redis.takes_writes)
        await until(lambda: heard[-1] == "subscribed" and len(heard) > 1)
        await redis.set(f"{HOME}kept", "new")


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_the_replica_of_a_lost_master_is_followed(runtime: Runtime, tmp_path: Path, fault: str) -> None:
    """The home fails over; a frozen master that comes back is not used as one."""
    with running_cluster(tmp_path, replicas=True) as replicated:
        async with opened(runtime, replicated.url()) as redis, hearing(runtime, redis) as heard:
            victim, generation = replicated.master_of(HOME), redis.generation
            await redis.set(f"{HOME}kept", "value")

            async def followed() -> None:
                await until(lambda: redis.takes_writes and redis.generation > generation)
                assert await redis.set(f"{HOME}where", "at the replica")
                await until(lambda: heard == ["subscribed", "subscribed"])
                assert await redis.publish("channel", "from the replica") == 1
                await until(lambda: heard[-1] == "from the replica")

            if fault == "killed":
                victim.kill()
                await followed()
            else:
                with frozen(victim.process.pid):
                    await followed()
                await until(lambda: victim.run("ROLE")[0] == "slave")
                assert await redis.get(f"{HOME}where") == "at the replica"


async def test_nodes_that_point_at_each_other_are_given_up() -> None:
    """A cluster whose nodes disagree must not keep a command for ever."""

    class Pointing:
        def __init__(self, url: str) -> None:
            self.port = int(url.rsplit(":", 1)[1])

        async def execute_command(self, *_args: Any) -> None:
            raise MovedError(f"1 127.0.0.1:{3 - self.port}")

    with pytest.raises(RedisConnectionError, match="do not agree"):
        await Cluster(ClusterUrl("redis+cluster://127.0.0.1:1"), Pointing).send("GET", "key")  # type: ignore[arg-type]


async def test_addresses_of_nodes_that_were_replaced_do_not_pile_up() -> None:
    newest = 1
    opened: set[int] = set()

    class Node:
        def __init__(self, url: str) -> None:
            self.port = int(url.rsplit(":", 1)[1])
            self.connection_pool = self
            opened.add(self.port)

        async def execute_command(self, *_args: Any) -> None:
            if self.port != newest:
                raise MovedError(f"1 127.0.0.1:{newest}")

        async def disconnect(self) -> None:
            opened.remove(self.port)

    cluster = Cluster(ClusterUrl("redis+cluster://127.0.0.1:1"), Node)  # type: ignore[arg-type]
    while newest < 3 * MAX_NODES:
        newest += 1
        await cluster.send("GET", "key")
    assert {1, newest} <= opened
    assert len(opened) == len(cluster.clients) == MAX_NODES
