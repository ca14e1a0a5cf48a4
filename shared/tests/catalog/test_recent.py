"""The three scripts of the read path's Redis level, in a real Valkey: nothing old comes back."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from artstore.catalog.recent import (
    DROP,
    FIND,
    FLOOR_S,
    KEEP,
    floor_key,
    floor_of,
    keys_of,
    record_key,
)
from artstore.contracts.events import Change, FileChanged
from artstore.testing.services import ValkeyServer, start_valkey

FILE = "0197aaaa-0000-7000-8000-000000000001"
KEYS = keys_of(FILE)
RECORD, FLOOR, LEASE = KEYS
EPOCH = "epoch"


@pytest.fixture
async def redis(valkey: ValkeyServer) -> AsyncIterator[Redis]:
    client = Redis.from_url(valkey.url(), decode_responses=True)
    await client.flushall()
    yield client
    await client.aclose()


async def find(redis: Redis, want: str = "record") -> tuple[str, int, str]:
    (answer,) = await cast(Any, redis.eval(FIND, 3, *KEYS, EPOCH, random.randbytes(8).hex(), FLOOR_S, want))
    return answer[0], int(answer[1]), answer[2]


async def lease(redis: Redis) -> str:
    return (await find(redis, "lease"))[2]


async def keep(redis: Redis, revision: int, under: str | None = None) -> bool:
    under = await lease(redis) if under is None else under
    (kept,) = await cast(Any, redis.eval(KEEP, 3, *KEYS, EPOCH, 3600, revision, f"record {revision}", under))
    return bool(kept)


async def drop(redis: Redis, floor: int) -> None:
    await cast(Any, redis.eval(DROP, 3, *KEYS, floor, FLOOR_S))


async def held(redis: Redis) -> int | None:
    record = (await find(redis))[0]
    return int(record.removeprefix("record ")) if record else None


async def test_the_higher_revision_stays(redis: Redis) -> None:
    for revision, taken in ((2, True), (1, False), (2, True), (10, True), (9, False)):
        assert await keep(redis, revision) is taken
    assert await held(redis) == 10


async def test_below_a_change_nothing_is_taken(redis: Redis) -> None:
    await keep(redis, 1)
    await drop(redis, 2)
    assert (await held(redis), (await find(redis))[1]) == (None, 2)
    assert not await keep(redis, 1)
    assert await keep(redis, 2)


@pytest.mark.parametrize("what", ["change", "flush", "the lease ran out"])
async def test_a_reader_that_was_overtaken_stores_nothing_however_late_it_comes(redis: Redis, what: str) -> None:
    """Also when the floor is gone: it slept for longer than FLOOR_S, or Redis was flushed after the change."""
    before = await lease(redis)
    if what == "change":
        await drop(redis, 2)
        await redis.delete(FLOOR)
    elif what == "flush":
        await drop(redis, 2)
        await redis.flushall()
    else:
        assert 0 < await redis.ttl(LEASE) <= FLOOR_S
        await redis.delete(LEASE)
    assert not await keep(redis, 1, before)
    await lease(redis)  # another reader's
    assert not await keep(redis, 1, before)
    assert await held(redis) is None


async def test_readers_at_once_share_a_lease(redis: Redis) -> None:
    first, second = await lease(redis), await lease(redis)
    assert first == second
    assert await keep(redis, 2, first)
    assert await keep(redis, 3, second)


async def test_what_an_old_dump_brings_back_is_not_believed(tmp_path: Path) -> None:
    """Killed after a change and back with the state before it: the deleted file and its readers' leases are in the dump."""
    valkey = start_valkey(tmp_path)
    client = Redis.from_url(valkey.url(), decode_responses=True)
    await keep(client, 1)
    before = await lease(client)
    await client.save()
    await drop(client, 2)
    valkey.process.kill()
    valkey.process.wait()
    await client.connection_pool.disconnect()
    valkey = start_valkey(tmp_path, valkey.port)
    try:
        assert str(await client.get(RECORD)).endswith(":1 record 1")  # it is there again
        assert await held(client) is None
        assert not await keep(client, 1, before)
        assert await keep(client, 1)
    finally:
        await client.aclose()
        valkey.stop()


async def test_a_late_event_does_not_drop_what_is_newer_nor_lower_the_floor(redis: Redis) -> None:
    await drop(redis, 5)
    await keep(redis, 5)
    await drop(redis, 3)
    assert await held(redis) == 5
    assert not await keep(redis, 4)


async def test_one_script_takes_many_files_and_judges_each(redis: Redis) -> None:
    """The first has a record, the second a floor above its revision, the third nothing."""
    ids = [FILE, *(FILE[:-1] + digit for digit in "59")]
    keys = [key for file_id in ids for key in keys_of(file_id)]
    await keep(redis, 4)
    await cast(Any, redis.eval(DROP, 3, *keys_of(ids[1]), 3, FLOOR_S))
    found = await cast(Any, redis.eval(FIND, 9, *keys, EPOCH, "token", FLOOR_S, "record", "record", "lease"))
    assert [(text, int(floor), bool(lease)) for text, floor, lease in found] == [
        ("record 4", 0, False),
        ("", 3, True),
        ("", 0, True),
    ]
    leases = [await lease(redis), found[1][2], found[2][2]]
    args = [arg for under in leases for arg in (2, "record 2", under)]
    assert await cast(Any, redis.eval(KEEP, 9, *keys, EPOCH, 3600, *args)) == [0, 0, 1]
    assert str(await redis.get(record_key(ids[2]))).endswith(":2 record 2")


def test_all_keys_have_one_hash_tag() -> None:
    keys = [*keys_of(FILE), *keys_of("0197bbbb-0000-7000-8000-000000000002"), record_key(FILE), floor_key(FILE)]
    assert {re.findall(r"{(.+)}", key)[0] for key in keys} == {"files"}
    assert keys_of(FILE)[:2] == (record_key(FILE), floor_key(FILE))


async def test_under_concurrent_readers_and_changes_the_last_change_wins(redis: Redis) -> None:
    """`truth` stands for the levels below: a reader takes its lease, looks there, dawdles, and keeps what it saw."""
    truth = 1
    wrong: list[int] = []

    async def reader() -> None:
        while truth < 60:
            under = await lease(redis)
            seen = truth
            await asyncio.sleep(random.uniform(0, 0.004))
            await keep(redis, seen, under)

    async def writer() -> None:
        nonlocal truth
        while truth < 60:
            truth += 1
            await drop(redis, truth)
            found = await held(redis)
            wrong.extend([found] if found is not None and found < truth else [])
            await asyncio.sleep(random.uniform(0, 0.004))

    await asyncio.gather(writer(), *(reader() for _ in range(6)))
    assert wrong == []


async def test_nothing_is_remembered_for_ever(redis: Redis) -> None:
    await keep(redis, 1)
    assert 0 < await redis.ttl(LEASE) <= FLOOR_S
    await drop(redis, 1)
    assert 0 < await redis.ttl(RECORD) <= 3600
    assert 0 < await redis.ttl(FLOOR) <= FLOOR_S


@pytest.mark.parametrize("damage", ["text", "run:9 text", "RUN", "RUNx text", "RUN1", "RUN1 ", {"revision": "9"}])
async def test_damage_is_a_miss_and_is_replaced_and_dropped(redis: Redis, damage: Any) -> None:
    """RUN stands for the beginning of a good record. Earlier versions wrote hashes."""
    run = (await lease(redis)).rpartition(":")[0] + ":"
    for put_right in (True, False):
        await redis.delete(RECORD)
        if isinstance(damage, str):
            await redis.set(RECORD, damage.replace("RUN", run))
        else:
            await cast(Any, redis.hset(RECORD, mapping=damage))
        assert await held(redis) is None
        if put_right:
            assert await keep(redis, 1)
            assert await held(redis) == 1
        else:
            await drop(redis, 2)
            assert not await redis.exists(RECORD)


async def test_revisions_beyond_a_million_are_compared_as_numbers(redis: Redis) -> None:
    await keep(redis, 10_000_000)
    assert not await keep(redis, 9_999_999)
    await drop(redis, 10_000_001)
    assert (await held(redis), (await find(redis))[1]) == (None, 10_000_001)


@pytest.mark.parametrize(("change", "floor"), [("put", 7), ("update", 7), ("delete", 8)])
def test_a_deleted_file_has_no_good_revision(change: Change, floor: int) -> None:
    assert floor_of(FileChanged(file_id=FILE, revision=7, change=change, storage_element_id="se-01")) == floor
