"""Downloads over real sockets: bytes, ranges, conditions, and what happens when one of the two sides disconnects."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator

import httpx
import pytest
from msgspec.structs import replace
from tests.rig import Rig, running, until

from artstore.http.content_head import content_disposition, repr_digest
from artstore.testing.fakes import new_file
from artstore.testing.services import PostgresServer, ValkeyServer
from artstore.testing.tokens import Signer

MIB = 1 << 20
CONTENT = os.urandom(3 * MIB + 17)


@pytest.fixture
async def without_hot(postgres: PostgresServer, valkey: ValkeyServer, signer: Signer) -> AsyncIterator[Rig]:
    async with running(postgres, valkey, signer, content_cache_bytes=0) as started:
        yield started


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, MIB + 1])
async def test_a_file_comes_back_byte_for_byte(rig: Rig, size: int) -> None:
    file = rig.first.put(CONTENT[:size])
    answer = await rig.get(f"/api/files/{file.file_id}/content")
    assert answer.status_code == 200
    assert answer.content == CONTENT[:size]
    assert answer.headers["content-length"] == str(size)
    assert answer.headers["etag"] == f'"{file.checksum}"'
    assert answer.headers["repr-digest"] == repr_digest(file.checksum)
    assert answer.headers["content-disposition"] == content_disposition("Договор №5.pdf")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-artstore-source"] == "attributes"


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=5-9", 5, 9),
        (f"bytes={MIB}-", MIB, len(CONTENT) - 1),
        ("bytes=-17", 3 * MIB, len(CONTENT) - 1),
    ],
)
async def test_a_range_returns_that_part_of_the_file(rig: Rig, asked: str, first: int, last: int) -> None:
    file = rig.first.put(CONTENT)
    answer = await rig.get(f"/api/files/{file.file_id}/content", range=asked)
    assert answer.status_code == 206
    assert answer.content == CONTENT[first : last + 1]
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(CONTENT)}"


async def test_a_range_outside_the_file_is_refused_with_its_length(rig: Rig) -> None:
    file = rig.first.put(b"0123456789")
    answer = await rig.get(f"/api/files/{file.file_id}/content", range="bytes=10-")
    assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == "bytes */10"


@pytest.mark.parametrize("size", [1, 10, 65_536, 65_537, MIB, 3 * MIB])
async def test_any_range_is_the_slice_of_the_bytes(rig: Rig, size: int) -> None:
    content = CONTENT[:size]
    path = f"/api/files/{rig.first.put(content).file_id}/content"
    drawn = random.Random(size)
    for _ in range(12):
        first = drawn.randrange(size)
        last = drawn.choice([first, drawn.randrange(first, size), size - 1, size, 10 * size])
        asked, part = drawn.choice(
            [
                (f"bytes={first}-{last}", content[first : last + 1]),
                (f"bytes={first}-", content[first:]),
                (f"bytes=-{first + 1}", content[-first - 1 :]),
            ]
        )
        answer = await rig.get(path, range=asked)
        assert (answer.status_code, answer.content) == (206, part), asked
        assert answer.headers["content-range"].startswith("bytes ")
        assert answer.headers["content-range"].endswith(f"/{size}")
    assert (await rig.get(path, range=f"bytes={size}-")).status_code == 416
    assert (await rig.get(path, range="bytes=0-0, 2-3")).content == content


@pytest.mark.parametrize(
    ("content_type", "shown"),
    [
        ("image/png", "inline"),
        ("text/plain; charset=utf-8", "inline"),
        ("video/mp4", "inline"),
        ("audio/ogg; codecs=opus", "inline"),
        ("application/pdf", "inline"),
        ("text/html", "attachment"),
        ("image/svg+xml", "attachment"),
        ("application/xhtml+xml", "attachment"),
        ("text/xml", "attachment"),
        ("text/javascript", "attachment"),
        ("application/octet-stream", "attachment"),
        ("multipart/x-mixed-replace; boundary=a", "attachment"),
    ],
)
@pytest.mark.parametrize("size", [10, MIB + 1])
async def test_only_types_that_run_no_scripts_are_shown_inline(
    rig: Rig, content_type: str, shown: str, size: int
) -> None:
    path = f"/api/files/{rig.first.put(CONTENT[:size], content_type=content_type).file_id}/content"
    for query, how in (("", "attachment"), ("?disposition=attachment", "attachment"), ("?disposition=inline", shown)):
        answer = await rig.get(path + query)
        assert (answer.status_code, answer.content) == (200, CONTENT[:size])
        assert answer.headers["content-disposition"] == content_disposition("Договор №5.pdf").replace("attachment", how)
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert ("sandbox" in policy) == (how == "attachment" or content_type != "application/pdf")
        is_played = how == "inline" and content_type.startswith(("audio/", "video/"))
        assert ("media-src 'self'" in policy) == ("allow-same-origin" in policy) == is_played
        assert "allow-scripts" not in policy
        head = await rig.client.head(path + query)
        assert head.headers["content-disposition"] == answer.headers["content-disposition"]


@pytest.mark.parametrize("given", ["", "INLINE", "inline;x", "inline&disposition=inline"])
async def test_any_other_disposition_is_refused(rig: Rig, given: str) -> None:
    path = f"/api/files/{rig.first.put(b'x').file_id}/content?disposition={given}"
    assert (await rig.get(path)).status_code == 422


async def test_lists_are_not_stored_by_caches(rig: Rig) -> None:
    for path in ("/api/files", "/api/changes"):
        assert (await rig.get(path)).headers["cache-control"] == "no-store"


async def test_a_client_with_current_bytes_gets_304(rig: Rig) -> None:
    file = rig.first.put(b"0123456789")
    path = f"/api/files/{file.file_id}/content"
    answer = await rig.get(path, **{"if-none-match": f'"{file.checksum}"'})
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == f'"{file.checksum}"'
    refused = await rig.get(path, **{"if-match": '"sha256:other"'})
    assert (refused.status_code, refused.json()["code"]) == (412, "revision_mismatch")
    stale = await rig.get(path, **{"if-range": '"sha256:other"', "range": "bytes=0-1"})
    assert (stale.status_code, stale.content) == (200, b"0123456789")


async def test_head_has_the_headers_of_get(rig: Rig) -> None:
    file = rig.first.put(b"0123456789")
    path = f"/api/files/{file.file_id}/content"
    got = await rig.get(path)
    asked = await rig.client.head(path)
    assert asked.status_code == 200
    assert asked.content == b""
    own = {"date", "x-request-id", "x-artstore-source"}
    assert {k: v for k, v in asked.headers.items() if k not in own} == {
        k: v for k, v in got.headers.items() if k not in own
    }


@pytest.mark.parametrize(
    ("old", "new"), [(b"old", b"new"), (CONTENT, b"new"), (b"old", CONTENT), (CONTENT, CONTENT[1:])]
)
async def test_new_bytes_are_never_sent_with_old_headers(without_hot: Rig, old: bytes, new: bytes) -> None:
    """Memory holds revision 1 while the element has revision 2, and no event came."""
    rig = without_hot
    file = rig.first.put(old)
    path = f"/api/files/{file.file_id}/content"
    await rig.get(path)
    newer = replace(new_file(new, revision=2), file_id=file.file_id, filename="new.txt")
    rig.first.store(newer, new)
    answer = await rig.get(path)
    assert (answer.status_code, answer.content) == (200, new)
    assert answer.headers["etag"] == f'"{newer.checksum}"'
    assert answer.headers["content-disposition"] == content_disposition("new.txt")
    assert (await rig.get(f"/api/files/{file.file_id}")).json()["revision"] == 2


async def test_a_file_on_a_different_element_is_found(rig: Rig) -> None:
    file = rig.first.put(b"bytes")
    path = f"/api/files/{file.file_id}/content"
    await rig.get(path)
    rig.second.store(replace(file, storage_element_id="se-02", revision=2), b"bytes")
    del rig.first.files[file.file_id]
    assert (await rig.get(path)).content == b"bytes"


@pytest.mark.parametrize("content", [b"bytes", CONTENT])
async def test_a_file_deleted_from_disk_is_not_found_although_memory_has_it(without_hot: Rig, content: bytes) -> None:
    rig = without_hot
    file = rig.first.put(content)
    path = f"/api/files/{file.file_id}/content"
    await rig.get(path)
    del rig.first.files[file.file_id]
    assert (await rig.get(path)).status_code == 404
    assert (await rig.get(f"/api/files/{file.file_id}")).status_code == 404


async def test_an_unavailable_element_is_named(rig: Rig) -> None:
    file = rig.first.put(b"bytes")
    path = f"/api/files/{file.file_id}"
    await rig.get(path)
    await rig.first.stop()
    answer = await rig.get(f"{path}/content")
    assert (answer.status_code, answer.json()["code"], answer.json()["away"]) == (503, "unavailable", "se-01")
    assert int(answer.headers["retry-after"]) > 0
    assert (await rig.get(path)).status_code == 200


async def test_a_truncated_body_never_looks_complete(rig: Rig) -> None:
    file = rig.first.put(CONTENT)
    rig.first.breaks_after = MIB
    with pytest.raises(httpx.RemoteProtocolError):
        await rig.get(f"/api/files/{file.file_id}/content")
    rig.first.breaks_after = None
    answer = await rig.get(f"/api/files/{file.file_id}/content")
    assert hashlib.sha256(answer.content).digest() == hashlib.sha256(CONTENT).digest()
    metrics = (await rig.get("/metrics")).text
    assert 'file_operations_total{operation="download",result="broken"} 1.0' in metrics
    assert 'file_operations_total{operation="download",result="ok"} 1.0' in metrics


async def test_a_client_that_disconnects_frees_the_element(rig: Rig) -> None:
    file = rig.first.put(CONTENT)
    rig.first.stalls_after = MIB
    async with rig.client.stream("GET", f"/api/files/{file.file_id}/content") as answer:
        async for _ in answer.aiter_raw():
            break
    async with asyncio.timeout(120):
        await rig.first.connection_lost.wait()
    await until(lambda: _has_metric(rig, 'file_operations_total{operation="download",result="cancelled"} 1.0'))


async def test_a_slow_client_gets_everything_without_buffering(rig: Rig) -> None:
    file = rig.first.put(CONTENT * 8)
    seen = hashlib.sha256()
    async with rig.client.stream("GET", f"/api/files/{file.file_id}/content") as answer:
        async for chunk in answer.aiter_raw(256 * 1024):
            seen.update(chunk)
            await asyncio.sleep(0)
    assert seen.digest() == hashlib.sha256(CONTENT * 8).digest()


async def _has_metric(rig: Rig, line: str) -> bool:
    return line in (await rig.get("/metrics")).text
