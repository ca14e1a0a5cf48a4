"""The four levels over real sockets: which one answers, what refreshes what, and what a change does."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace
from sqlalchemy import text
from tests.rig import Rig, until

from app.reading.memory import Record
from artstore.catalog.recent import record_key
from artstore.clock import uuid7
from artstore.contracts.files import Attributes, encode


async def test_each_level_answers_and_refreshes_those_above(rig: Rig) -> None:
    file = rig.first.put(b"content")
    assert await rig.source(file) == "attributes"
    assert await rig.source(file) == "memory"
    await until(lambda: _is_in_redis(rig, file))
    rig.context.lookup.invalidate_all()
    assert await rig.source(file) == "redis"
    await until(lambda: _is_in_catalog(rig, file.file_id))
    rig.context.lookup.invalidate_all()
    await rig.redis.delete(record_key(file.file_id))
    assert await rig.source(file) == "database"
    await until(lambda: _is_in_redis(rig, file))
    assert rig.first.asked == 2  # once to answer, once after the row was written


async def test_every_level_answers_attr_json_byte_for_byte(rig: Rig) -> None:
    file = replace(rig.first.put(b"content"), unknown={"from_a_later_version": {"a": [1, "ä"]}})
    rig.first.store(file, b"content")
    for _ in range(2):
        answer = await rig.get(f"/api/files/{file.file_id}")
        assert answer.content == encode(file)
        assert answer.headers["etag"] == '"1"'
        assert "x-artstore-degraded" not in answer.headers


async def test_reading_does_not_make_an_open_upload_available(rig: Rig) -> None:
    uploading, sound = rig.first.put(b"content"), rig.first.put(b"other")
    rig.first.unconfirmed[uploading.file_id] = str(uuid7())
    for file in (uploading, sound):
        assert await rig.source(file) == "attributes"
    await until(lambda: _is_in_catalog(rig, sound.file_id))
    assert uploading.file_id not in await rig.catalog()


async def test_a_file_whose_upload_is_not_committed_is_not_found(rig: Rig) -> None:
    file = rig.first.put(b"content")
    await rig.note(file, saga_id=str(uuid7()))
    assert (await rig.get(f"/api/files/{file.file_id}")).status_code == 404
    await rig.note(file)
    await rig.announce(file, "put")
    await until(lambda: _answers(rig, file.file_id, 200))


@pytest.mark.parametrize(
    "wrong", ["no-uuid", "0197aaaa00007000800000000000000a", "%00", "{0197aaaa-0000-7000-8000-00000000000a}"]
)
async def test_a_malformed_id_is_not_found(rig: Rig, wrong: str) -> None:
    answer = await rig.get(f"/api/files/{wrong}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_concurrent_misses_share_one_flight(rig: Rig) -> None:
    file = rig.first.put(b"content")
    rig.first.answers_after_s = 0.2
    answers = await asyncio.gather(*(rig.get(f"/api/files/{file.file_id}") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    await until(lambda: _is_in_catalog(rig, file.file_id))
    await until(lambda: rig.first.asked == 2)


async def test_not_found_is_cached_until_a_change_is_announced(rig: Rig) -> None:
    file = rig.first.put(b"content")
    del rig.first.files[file.file_id]
    assert (await rig.get(f"/api/files/{file.file_id}")).status_code == 404
    asked = rig.first.asked
    assert (await rig.get(f"/api/files/{file.file_id}")).status_code == 404
    assert rig.first.asked == asked
    rig.first.store(file, b"content")
    await rig.announce(file, "put")
    await until(lambda: _answers(rig, file.file_id, 200))


async def test_a_change_drops_memory_and_redis(rig: Rig) -> None:
    file = rig.first.put(b"content")
    await rig.source(file)
    newer = replace(file, revision=2, filename="new.pdf")
    rig.first.store(newer, b"content")
    await rig.note(newer, change="update")
    await rig.announce(newer, "update")
    await until(lambda: _is_named(rig, file.file_id, "new.pdf"))
    await until(lambda: _is_in_redis(rig, newer))


async def test_a_lower_revision_never_overwrites_a_higher_in_redis(rig: Rig) -> None:
    file = rig.first.put(b"content", revision=3)
    await rig.source(file)
    level = rig.context.lookup._levels.redis
    older, newer = replace(file, revision=2), replace(file, revision=4)

    async def keep(attributes: Attributes) -> None:
        lease = (await level.lease(file.file_id)).lease
        await level._keep_all([(Record(attributes, encode(attributes)), lease)])

    async def revision() -> int | None:
        found = (await level.find(file.file_id)).record
        return found.revision if found is not None else None

    await keep(file)
    await keep(older)
    assert await revision() == 3
    await level.drop(file.file_id, 4)
    await keep(file)
    assert await revision() is None
    await keep(newer)
    assert await revision() == 4


async def test_a_damaged_entry_in_redis_is_a_miss_and_is_replaced(rig: Rig) -> None:
    file = rig.first.put(b"content")
    for damage in ("", "{", "[]", "null", '{"revision": "x"}', '{"revision": 9}'):
        await rig.source(file)
        await until(lambda: _is_in_redis(rig, file))
        key = record_key(file.file_id)
        await rig.redis.set(key, f"{str(await rig.redis.get(key)).partition(' ')[0]} {damage}")
        rig.context.lookup.invalidate_all()
        assert await rig.source(file) in ("attributes", "database")


async def test_a_deleted_file_disappears_from_every_level(rig: Rig) -> None:
    file = rig.first.put(b"content")
    await rig.source(file)
    await until(lambda: _is_in_catalog(rig, file.file_id))
    del rig.first.files[file.file_id]
    async with rig.engine.begin() as connection:
        await connection.execute(text("DELETE FROM files"))
    await rig.announce(file, "delete")
    await until(lambda: _answers(rig, file.file_id, 404))
    assert await rig.redis.get(record_key(file.file_id)) is None


async def test_a_row_stays_although_no_element_has_the_file(rig: Rig) -> None:
    """Their disk may be another one: only the element itself takes rows out of the catalog."""
    file = rig.first.put(b"content")
    await rig.note(file)
    del rig.first.files[file.file_id]
    async with rig.engine.begin() as connection:
        await connection.execute(text("UPDATE files SET checked_at = now() - interval '25 hours'"))
    assert (await rig.get(f"/api/files/{file.file_id}")).status_code == 404
    other = rig.first.put(b"read after it, so what the first read had to write is written")
    await rig.source(other)
    await until(lambda: _is_in_catalog(rig, other.file_id))
    assert await _is_in_catalog(rig, file.file_id)


async def test_a_stale_row_answers_while_its_element_is_unavailable(rig: Rig) -> None:
    file = rig.first.put(b"content")
    await rig.note(file)
    async with rig.engine.begin() as connection:
        await connection.execute(text("UPDATE files SET checked_at = now() - interval '25 hours'"))
    await rig.first.stop()
    answer = await rig.get(f"/api/files/{file.file_id}")
    assert answer.status_code == 200
    assert answer.headers["x-artstore-source"] == "database"
    assert answer.headers["x-artstore-degraded"] == "se-01"


async def test_not_found_is_never_answered_while_an_element_is_unavailable(rig: Rig) -> None:
    await rig.second.stop()
    answer = await rig.get(f"/api/files/{uuid7()}")
    assert answer.status_code == 503
    assert answer.json()["away"] == ["se-02"]
    assert int(answer.headers["retry-after"]) > 0


async def test_reads_continue_while_catalog_and_redis_are_emptied(rig: Rig) -> None:
    files = [rig.first.put(b"%d" % n) for n in range(5)] + [rig.second.put(b"%d" % n) for n in range(5)]
    for round_ in range(3):
        async with rig.engine.begin() as connection:
            await connection.execute(text("TRUNCATE files"))
        await rig.redis.flushall()
        rig.context.lookup.invalidate_all()
        assert {await rig.source(file) for file in files} == {"attributes"}, round_
        await until(lambda: _has_rows(rig, len(files)))


async def test_a_quarantined_file_is_not_reported_as_missing(rig: Rig) -> None:
    file = rig.second.put(b"content")
    await rig.note(file)
    assert (await rig.get(f"/api/files/{file.file_id}")).status_code == 200
    del rig.second.files[file.file_id]
    rig.second.quarantined.add(file.file_id)
    answer = await rig.get(f"/api/files/{file.file_id}/content")
    assert (answer.status_code, answer.json()["code"]) == (410, "quarantined")
    async with rig.engine.begin() as connection:
        await connection.execute(text("DELETE FROM files"))
    await rig.announce(file, "delete")
    await until(lambda: _answers(rig, file.file_id, 410))


async def test_lookups_at_once_share_queries_and_each_gets_its_own_answer(rig: Rig) -> None:
    files = [rig.first.put(b"%d" % number) for number in range(100)]
    known, unknown = files[:80], files[80:]
    await rig.note(*known)
    answers = await asyncio.gather(*(rig.get(f"/api/files/{file.file_id}") for file in files))
    assert [answer.content for answer in answers] == [encode(file) for file in files]
    sources = [answer.headers["x-artstore-source"] for answer in answers]
    assert sources == ["database"] * len(known) + ["attributes"] * len(unknown)
    for file in files:
        await until(lambda file=file: _is_in_redis(rig, file))


async def test_metrics_count_hits_of_each_level(rig: Rig) -> None:
    file = rig.first.put(b"content")
    await rig.source(file)
    await rig.source(file)
    metrics = (await rig.get("/metrics")).text
    assert 'lookup_level_total{level="memory",result="hit"} 1.0' in metrics
    assert 'lookup_level_total{level="redis",result="miss"} 1.0' in metrics
    assert 'lookup_level_total{level="attributes",result="hit"} 1.0' in metrics


async def _is_in_redis(rig: Rig, file: Attributes) -> bool:
    return str(await rig.redis.get(record_key(file.file_id))).endswith(f" {encode(file).decode()}")


async def _is_in_catalog(rig: Rig, file_id: str) -> bool:
    return file_id in await rig.catalog()


async def _has_rows(rig: Rig, count: int) -> bool:
    return len(await rig.catalog()) == count


async def _answers(rig: Rig, file_id: str, status: int) -> bool:
    return (await rig.get(f"/api/files/{file_id}")).status_code == status


async def _is_named(rig: Rig, file_id: str, filename: str) -> bool:
    return bool((await rig.get(f"/api/files/{file_id}")).json()["filename"] == filename)
