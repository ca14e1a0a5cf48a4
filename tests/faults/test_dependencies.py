"""Each part in turn is stopped, or accepts connections and answers nothing: users see what docs/operations/outages.md says.

The other parts leak nothing meanwhile: no thread, no descriptor, no memory, no process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

import httpx
import pytest
from support.everyday import TIMEOUTS, Load, Seen, load_of, show
from support.fleet import Fleet, eventually, running_fleet
from support.measures import Held, held_by

from artstore.testing.services import frozen

SPARE = Held(threads=8, files=40, memory_bytes=48 << 20)
"""The most that pools, caches and threads may hold in addition after a fault, compared with the same load without."""
LARGE_BYTES = 32 << 20
"""More than all buffers between a disk and a client hold."""
REFUSED_WITHIN_S = 20
"""A hung part is known within seven seconds."""
PARTS = {
    "postgres": ("postgres",),
    "redis": ("valkey",),
    "one element": ("se-02",),
    "all elements": ("se-01", "se-02"),
    "admin": ("admin-1", "admin-2"),
    "ingester": ("ingester",),
    "query": ("query",),
}
WELL = {"attributes": 200, "bytes": 200, "bytes on rw": 200, "list": 200, "upload": 201, "update": 200, "login": 200}
REFUSED = 0
SEEN_WITHOUT = {
    "postgres": WELL | {"list": 503, "upload": 503, "login": 503},
    "redis": WELL,
    "one element": WELL | {"bytes on rw": 503, "upload": 503},
    "all elements": WELL | {"bytes": 503, "bytes on rw": 503, "upload": 503, "update": 202},
    "admin": WELL | {"upload": 503, "login": REFUSED},
    "ingester": WELL | {"upload": REFUSED, "update": REFUSED},
    "query": WELL | {"attributes": REFUSED, "bytes": REFUSED, "bytes on rw": REFUSED, "list": REFUSED},
}
"""By the part that is stopped. se-02 is the only element that takes permanent files."""
SAID_TO_BE_AWAY = {
    "postgres": {"database"},
    "redis": {"redis"},
    "one element": {"se-02"},
    "all elements": {"se-01", "se-02"},
}


@pytest.fixture(scope="module")
def load() -> Iterator[Load]:
    # Without hot contents: each read of bytes needs its element.
    with running_fleet(settings={**TIMEOUTS, "CONTENT_CACHE_BYTES": "0"}) as fleet:
        yield load_of(fleet)


@pytest.mark.parametrize("part", PARTS)
def test_what_users_see_without_a_part_and_that_it_heals_by_itself(load: Load, part: str) -> None:
    stop(load.fleet, part)
    seen = load.run(6)
    show(f"no {part}", seen)
    start(load.fleet, part)
    assert {(one.what, one.status) for one in seen} == set(SEEN_WITHOUT[part].items())
    assert all(int(one.retry_after) <= 5 for one in seen if one.status == 503)
    named = {name for one in seen for name in one.degraded.split(", ") if name}
    assert named == SAID_TO_BE_AWAY.get(part, set())
    eventually(lambda: is_well(load.run(1)))


@pytest.mark.parametrize("part", [part for part in PARTS if part not in ("ingester", "query")])
def test_a_part_that_answers_nothing_costs_the_others_nothing(load: Load, part: str) -> None:
    fleet = load.fleet
    before = {name: held_by(process.pid) for name, process in fleet.processes.items()}
    with frozen(*(pid_of(fleet, name) for name in PARTS[part])):
        seen = load.run(20, but=("login",) if part == "admin" else ())
    show(f"frozen {part}", seen)
    assert {one.status for one in seen if one.what != "update"} <= {200, 201, 503}, "0: waited longer than any timeout"
    # 409: many change one file at once, and the first of them waits for the catalog
    assert {one.status for one in seen if one.what == "update"} <= {200, 202, 409, 503}
    assert all(one.retry_after for one in seen if one.status == 503)
    eventually(lambda: is_well(load.run(1)))
    for name, process in fleet.processes.items():
        assert process.poll() is None, name
        eventually(partial(holds_at_most, before[name], process.pid))


def test_a_download_whose_element_hangs_breaks_off_and_goes_on_where_it_was(load: Load) -> None:
    """It never looks whole, and the next reader is refused long before the timeout of its call."""
    fleet, content = load.fleet, os.urandom(LARGE_BYTES)
    file_id = fleet.upload(load.token, content).json()["file_id"]
    url, got = f"{fleet.url('query')}/api/files/{file_id}/content", bytearray()
    headers = {"authorization": f"Bearer {load.token}"}
    with httpx.Client(headers=headers, timeout=REFUSED_WITHIN_S) as client:
        with client.stream("GET", url) as answer:
            etag, pieces = answer.headers["etag"], answer.iter_raw(1 << 20)
            got += next(pieces)
            with frozen(pid_of(fleet, "se-02")):
                with pytest.raises(httpx.RemoteProtocolError):
                    read_into(got, pieces)
                refused = client.get(url)
        assert len(got) < LARGE_BYTES
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert int(refused.headers["retry-after"]) <= 5

        def rest() -> bytes:
            answer = client.get(url, headers={"range": f"bytes={len(got)}-", "if-range": etag})
            return answer.content if answer.status_code == 206 else b""

        assert bytes(got) + eventually(rest) == content
    eventually(lambda: is_well(load.run(1)))


def read_into(got: bytearray, pieces: Iterator[bytes]) -> None:
    for piece in pieces:
        got += piece


def is_well(seen: list[Seen]) -> bool:
    return {(one.what, one.status) for one in seen} == set(WELL.items()) and not any(one.degraded for one in seen)


def stop(fleet: Fleet, part: str) -> None:
    if part == "postgres":
        fleet.postgres.discard()
    elif part == "redis":
        fleet.valkey.stop()
    else:
        for name in PARTS[part]:
            fleet.stop(name)


def start(fleet: Fleet, part: str) -> None:
    if part == "postgres":
        fleet.start_postgres()
    elif part == "redis":
        fleet.start_valkey()
    else:
        for name in PARTS[part]:
            fleet.start(name)
    fleet.ready(*fleet.processes)


def pid_of(fleet: Fleet, name: str) -> int:
    servers = {"postgres": fleet.postgres.process, "valkey": fleet.valkey.process}
    return (servers.get(name) or fleet.processes[name]).pid


def holds_at_most(before: Held, pid: int) -> bool:
    return is_within(before, held_by(pid))


def is_within(before: Held, now: Held) -> bool:
    return (
        now.threads <= before.threads + SPARE.threads
        and now.files <= before.files + SPARE.files
        and now.memory_bytes <= before.memory_bytes + SPARE.memory_bytes
    )
