"""Small files: read together, and served from memory only as long as the attributes allow."""

from __future__ import annotations

import asyncio
import os
import socket
from datetime import timedelta

import httpx
import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry
from sqlalchemy import text
from tests.rig import Rig, running, until

from app.reading import hot
from artstore.clock import Clock
from artstore.contracts.files import Attributes
from artstore.testing.fakes import new_file
from artstore.testing.services import PostgresServer, ValkeyServer
from artstore.testing.tokens import Signer

CONTENT = os.urandom(5000)
LARGE = os.urandom(hot.MAX_HOT_BYTES)


class Still(Clock):
    now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s


@pytest.fixture
async def file(rig: Rig) -> Attributes:
    """In the memory of the module."""
    file = rig.first.put(CONTENT)
    await rig.note(file)
    answer = await rig.get(path_of(file))
    assert answer.content == CONTENT
    assert len(rig.first.read_together) == 1
    return file


def path_of(file: Attributes) -> str:
    return f"/api/files/{file.file_id}/content"


async def test_hot_bytes_are_served_without_the_element(rig: Rig, file: Attributes) -> None:
    whole = await rig.get(path_of(file))
    assert (whole.status_code, whole.content) == (200, CONTENT)
    part = await rig.get(path_of(file), range="bytes=10-19")
    assert (part.status_code, part.content) == (206, CONTENT[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(CONTENT)}"
    assert (await rig.get(path_of(file), range="bytes=5000-")).status_code == 416
    known = await rig.get(path_of(file), **{"if-none-match": f'"{file.checksum}"'})
    assert (known.status_code, known.content) == (304, b"")
    head = await rig.client.head(path_of(file))
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(CONTENT)))
    assert len(rig.first.read_together) == 1
    metrics = (await rig.get("/metrics")).text
    assert 'content_cache_total{result="hit"} 2.0' in metrics
    assert 'content_cache_total{result="miss"} 1.0' in metrics
    assert f"content_cache_bytes {float(len(CONTENT) + hot.ENTRY_BYTES)}" in metrics
    assert 'file_operations_total{operation="download",result="ok"} 3.0' in metrics


async def test_two_files_with_the_same_bytes_have_their_own_names(rig: Rig, file: Attributes) -> None:
    twin = rig.first.put(CONTENT, filename="twin.txt")
    answer = await rig.get(path_of(twin))
    assert answer.content == CONTENT
    assert "twin.txt" in answer.headers["content-disposition"]
    assert len(rig.first.read_together) == 1 or rig.first.read_together[1:] == [[twin.file_id]]


async def test_an_announced_delete_ends_the_use_of_hot_bytes(rig: Rig, file: Attributes) -> None:
    del rig.first.files[file.file_id]
    await delete_row(rig)
    await rig.announce(file, "delete")
    await until(lambda: answers(rig, file, 404))


async def test_a_quarantined_file_is_410_although_its_bytes_are_hot(rig: Rig, file: Attributes) -> None:
    """The element removes the row, which announces a delete."""
    del rig.first.files[file.file_id]
    rig.first.quarantined.add(file.file_id)
    await delete_row(rig)
    await rig.announce(file, "delete")
    await until(lambda: answers(rig, file, 410))


async def test_an_announced_rewrite_gives_the_new_bytes(rig: Rig, file: Attributes) -> None:
    newer = replace(new_file(b"new", revision=2), file_id=file.file_id)
    rig.first.store(newer, b"new")
    await rig.note(newer, change="update")
    await rig.announce(newer, "update")
    await until(lambda: has_content(rig, file, b"new"))
    assert (await rig.get(path_of(file))).headers["etag"] == f'"{newer.checksum}"'


async def test_an_announced_rename_keeps_the_bytes_and_shows_the_new_name(rig: Rig, file: Attributes) -> None:
    newer = replace(file, revision=2, filename="renamed.txt")
    rig.first.store(newer, CONTENT)
    await rig.note(newer, change="update")
    await rig.announce(newer, "update")
    await until(lambda: is_named(rig, file, "renamed.txt"))
    assert (await rig.get(path_of(file))).content == CONTENT
    assert len(rig.first.read_together) == 1


async def test_hot_bytes_are_served_while_their_element_is_away(rig: Rig, file: Attributes) -> None:
    other = rig.first.put(CONTENT * 20)
    await rig.note(other)
    await rig.first.stop()
    assert (await rig.get(path_of(file))).content == CONTENT
    assert (await rig.get(path_of(other))).status_code == 503


def test_bytes_are_kept_no_longer_than_attributes() -> None:
    clock = Still()
    cache = hot.HotContents(clock, 1 << 20, 300, CollectorRegistry())
    cache.keep("a", b"a")
    clock.now_s = 299
    assert cache.find("a") == b"a"
    clock.now_s = 300
    assert cache.find("a") is None


async def read_large(rig: Rig, times: int, content: bytes = LARGE) -> Attributes:
    file = rig.first.put(content)
    await rig.note(file)
    for _ in range(times):
        assert (await rig.get(path_of(file))).content == content
    return file


async def test_a_larger_content_is_kept_at_its_second_read(rig: Rig) -> None:
    file = await read_large(rig, 4)
    assert len(rig.first.read_alone) == 2
    part = await rig.get(path_of(file), range="bytes=70000-99999")
    assert (part.status_code, part.content) == (206, LARGE[70000:100000])
    head = await rig.client.head(path_of(file))
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(LARGE)))
    assert len(rig.first.read_alone) == 2
    metrics = (await rig.get("/metrics")).text
    assert value_of("content_cache_bytes", metrics) == len(LARGE) + hot.ENTRY_BYTES
    assert 'file_operations_total{operation="download",result="ok"} 5.0' in metrics
    assert value_of("content_sent_bytes_total", metrics) == 4 * len(LARGE) + 30000


async def test_an_announced_delete_ends_the_use_of_a_larger_content(rig: Rig) -> None:
    file = await read_large(rig, 2)
    del rig.first.files[file.file_id]
    await delete_row(rig)
    await rig.announce(file, "delete")
    await until(lambda: answers(rig, file, 404))


async def test_a_content_above_the_limit_is_never_kept(rig: Rig) -> None:
    await read_large(rig, 3, LARGE + b"x")
    assert len(rig.first.read_alone) == 3


async def test_parts_of_a_larger_content_are_not_kept(rig: Rig) -> None:
    file = await read_large(rig, 0)
    for _ in range(3):
        assert (await rig.get(path_of(file), range="bytes=0-99999")).content == LARGE[:100000]
    assert len(rig.first.read_alone) == 3


async def test_a_larger_content_that_does_not_match_its_checksum_is_not_kept(rig: Rig) -> None:
    file = await read_large(rig, 0)
    damaged = LARGE[:-1] + bytes([LARGE[-1] ^ 1])
    rig.first.store(file, damaged)
    for _ in range(3):
        assert (await rig.get(path_of(file))).content == damaged
    rig.first.store(file, LARGE)
    assert (await rig.get(path_of(file))).content == LARGE
    assert len(rig.first.read_alone) == 4


async def test_an_incomplete_content_is_not_kept(rig: Rig) -> None:
    file = await read_large(rig, 1)
    rig.first.breaks_after = 100_000
    with pytest.raises(httpx.RemoteProtocolError):
        await rig.get(path_of(file))
    rig.first.breaks_after = None
    assert (await rig.get(path_of(file))).content == LARGE
    assert len(rig.first.read_alone) == 3


async def test_a_client_that_does_not_read_a_larger_content_is_disconnected(
    postgres: PostgresServer, valkey: ValkeyServer, signer: Signer
) -> None:
    async with running(postgres, valkey, signer, body_idle_timeout_s=1) as rig:
        file = await read_large(rig, 2)
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            url = rig.client.base_url
            await loop.sock_connect(client, (url.host, url.port))
            lines = [
                f"GET {path_of(file)} HTTP/1.1",
                "host: query",
                *(f"{n}: {v}" for n, v in rig.client.headers.items()),
            ]
            await loop.sock_sendall(client, "\r\n".join([*lines, "", ""]).encode())
            slow = 'file_operations_total{operation="download",result="slow"} 1.0'
            await until(lambda: has_metric(rig, slow))
        assert len(rig.first.read_alone) == 2


def test_contents_in_use_are_bounded() -> None:
    cache = hot.HotContents(Still(), 64 << 20, 300, CollectorRegistry())
    assert not cache.has_space_for(len(LARGE) + 1)
    with cache.in_use(63 << 20):
        assert cache.has_space_for(len(LARGE))
        with cache.in_use(1):
            assert not cache.has_space_for(len(LARGE))
    assert cache.has_space_for(len(LARGE))


async def test_a_token_without_permission_gets_no_hot_bytes(rig: Rig, file: Attributes) -> None:
    del rig.client.headers["authorization"]
    assert (await rig.get(path_of(file))).status_code == 401


async def test_bytes_that_do_not_match_their_checksum_are_refused_and_not_kept(rig: Rig) -> None:
    file = rig.first.put(CONTENT)
    rig.first.store(file, CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    for _ in range(2):
        answer = await rig.get(path_of(file))
        assert (answer.status_code, answer.json()["code"]) == (500, "file_damaged")
    rig.first.store(file, CONTENT)
    assert (await rig.get(path_of(file))).content == CONTENT


async def test_reads_at_once_share_requests_and_an_error_concerns_one_file(rig: Rig) -> None:
    contents = [os.urandom(100 + number) for number in range(60)]
    files = [rig.first.put(content) for content in contents]
    await rig.note(*files)
    gone, damaged, slow = files[7], files[8], files[9]
    del rig.first.files[gone.file_id]
    rig.first.store(damaged, b"other")
    rig.first.slow.add(slow.file_id)
    found = await asyncio.gather(*(rig.get(path_of(file)) for file in files))
    wanted = {gone.file_id: 404, damaged.file_id: 500}
    assert [answer.status_code for answer in found] == [wanted.get(file.file_id, 200) for file in files]
    for file, answer, content in zip(files, found, contents, strict=True):
        assert file.file_id in wanted or answer.content == content
    assert len(rig.first.read_together) < len(files) / 2


async def test_each_file_of_a_failed_request_counts_at_the_breaker(rig: Rig) -> None:
    files = [rig.first.put(b"%d" % number) for number in range(12)]
    await rig.note(*files)
    await rig.first.stop()
    found = await asyncio.gather(*(rig.get(path_of(file)) for file in files))
    assert {(answer.status_code, answer.json()["away"]) for answer in found} == {(503, "se-01")}
    assert 'circuit_breaker_state{edge="se-01"} 2.0' in (await rig.get("/metrics")).text


async def test_a_file_waits_no_longer_than_the_timeout_behind_requests_that_hang(
    postgres: PostgresServer, valkey: ValkeyServer, signer: Signer
) -> None:
    async with running(postgres, valkey, signer, element_answer_timeout_s=0.5) as rig:
        files = [rig.first.put(b"%d" % number) for number in range(4)]
        await rig.note(*files)
        rig.first.hangs = True
        found = await asyncio.gather(*(rig.get(path_of(file)) for file in files))
        assert {(answer.status_code, answer.json()["away"]) for answer in found} == {(503, "se-01")}
        rig.first.hangs = False
        await until(lambda: has_content(rig, files[0], b"0"))


async def test_an_element_of_an_earlier_version_is_asked_for_each_file(rig: Rig) -> None:
    rig.first.reads_together = False
    file = rig.first.put(CONTENT)
    assert (await rig.get(path_of(file))).content == CONTENT
    assert (await rig.get(path_of(file), range="bytes=0-9")).content == CONTENT[:10]


async def test_one_request_gives_attributes_and_bytes_when_the_row_is_old(rig: Rig) -> None:
    file = rig.first.put(CONTENT)
    await rig.note(file)
    async with rig.engine.begin() as connection:
        old = Clock().now() - timedelta(days=2)
        await connection.execute(text("UPDATE files SET checked_at = :old"), {"old": old})
    answer = await rig.get(path_of(file))
    assert (answer.content, answer.headers["x-artstore-source"]) == (CONTENT, "attributes")
    assert (rig.first.read_together, rig.first.asked) == ([[file.file_id]], 0)


async def test_memory_is_bounded_and_forgets_the_least_recently_used(rig: Rig) -> None:
    cache = rig.context.content.small._hot
    cache._max_bytes = 3 * (1000 + hot.ENTRY_BYTES)
    for name in "abc":
        cache.keep(name, name.encode() * 1000)
    assert cache.find("a") == b"a" * 1000
    cache.keep("d", b"d" * 1000)
    assert [cache.find(name) is not None for name in "abcd"] == [True, False, True, True]
    cache.keep("e", b"e" * 4000)
    assert (cache.find("e"), cache._bytes) == (None, 0)


async def delete_row(rig: Rig) -> None:
    async with rig.engine.begin() as connection:
        await connection.execute(text("DELETE FROM files"))


async def answers(rig: Rig, file: Attributes, status: int) -> bool:
    return (await rig.get(path_of(file))).status_code == status


async def has_content(rig: Rig, file: Attributes, content: bytes) -> bool:
    return (await rig.get(path_of(file))).content == content


async def is_named(rig: Rig, file: Attributes, name: str) -> bool:
    return name in (await rig.get(path_of(file))).headers["content-disposition"]


async def has_metric(rig: Rig, line: str) -> bool:
    return line in (await rig.get("/metrics")).text


def value_of(name: str, metrics: str) -> float:
    (line,) = [line for line in metrics.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])
