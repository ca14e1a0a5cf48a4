"""The two scripts of the read path's Redis level, in a real Valkey."""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
import pytest
from redis.asyncio import Redis

from artstore.catalog.recent import DROP, FLOOR_S, KEEP, floor_key, floor_of, record_key
from artstore.contracts.events import Change, FileChanged
from artstore.testing.services import ValkeyServer

FILE = "0197aaaa-0000-7000-8000-000000000001"
KEYS = (record_key(FILE), floor_key(FILE))


@pytest.fixture
async def redis(valkey: ValkeyServer) -> AsyncIterator[Redis]:
    client = Redis.from_url(valkey.url(), decode_responses=True)
    await client.flushall()
    yield client
    await client.aclose()


async def keep(redis: Redis, revision: int) -> bool:
    record = orjson.dumps({"revision": revision}).decode()
    return bool(await redis.eval(KEEP, 2, *KEYS, revision, record, 3600))


async def drop(redis: Redis, floor: int) -> None:
    await redis.eval(DROP, 2, *KEYS, floor, FLOOR_S)


async def held(redis: Redis) -> int | None:
    text = await redis.get(KEYS[0])
    return orjson.loads(text)["revision"] if text else None


async def test_the_higher_revision_stays(redis: Redis) -> None:
    for revision, taken in ((2, True), (1, False), (2, True), (10, True), (9, False)):
        assert await keep(redis, revision) is taken
    assert await held(redis) == 10


async def test_a_reader_who_was_overtaken_cannot_bring_the_old_state_back(redis: Redis) -> None:
    await keep(redis, 1)
    await drop(redis, 2)
    assert await held(redis) is None
    assert not await keep(redis, 1)
    assert await keep(redis, 2)


async def test_a_late_event_does_not_drop_what_is_newer_nor_lower_the_floor(redis: Redis) -> None:
    await drop(redis, 5)
    await keep(redis, 5)
    await drop(redis, 3)
    assert await held(redis) == 5
    assert not await keep(redis, 4)


async def test_nothing_is_remembered_for_ever(redis: Redis) -> None:
    await keep(redis, 1)
    await drop(redis, 1)
    assert 0 < await redis.ttl(KEYS[0]) <= 3600
    assert 0 < await redis.ttl(KEYS[1]) <= FLOOR_S


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", "5", '{"revision": "x"}', '{"revision": null}', "\x00"])
async def test_damage_is_replaced_and_dropped(redis: Redis, damage: str) -> None:
    await redis.set(KEYS[0], damage)
    assert await keep(redis, 1)
    await redis.set(KEYS[0], damage)
    await drop(redis, 2)
    assert await redis.get(KEYS[0]) is None


async def test_revisions_beyond_a_million_are_compared_as_numbers(redis: Redis) -> None:
    await drop(redis, 2_147_483_647)
    assert not await keep(redis, 2_147_483_646)
    assert await keep(redis, 2_147_483_647)


@pytest.mark.parametrize(("change", "floor"), [("put", 7), ("update", 7), ("delete", 8)])
def test_a_deleted_file_has_no_good_revision(change: Change, floor: int) -> None:
    event = FileChanged(file_id=FILE, revision=7, change=change, storage_element_id="se-01")
    assert floor_of(event) == floor
