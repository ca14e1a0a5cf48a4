"""Every part in turn is stopped, or accepts connections and answers nothing: what users see then, as docs/operations.md says,
and that the other parts lose nothing by it, no thread, no descriptor, no memory, no process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.everyday import TIMEOUTS, Load, Seen, load_of, show
from support.fleet import Fleet, eventually, running_fleet
from support.measures import Held, frozen, held_by

SPARE = Held(threads=8, files=40, memory_bytes=48 << 20)
"""What pools, caches and the thread pool may hold more after a fault than after the same load without."""
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
    with running_fleet(**TIMEOUTS) as fleet:
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
        eventually(lambda name=name, pid=process.pid: is_within(before[name], held_by(pid)))


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


def is_within(before: Held, now: Held) -> bool:
    return (
        now.threads <= before.threads + SPARE.threads
        and now.files <= before.files + SPARE.files
        and now.memory_bytes <= before.memory_bytes + SPARE.memory_bytes
    )
