"""Hundreds of slow transfers, and parts that hang: the other requests go on, and what cannot be served is refused soon."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from functools import partial

import httpx
import pytest
from support.everyday import Load, load_of
from support.fleet import Fleet, eventually, running_fleet
from support.slow import Crowd, head, read, send, until_admitted

from artstore.testing.services import frozen

UPLOADS, DOWNLOADS = 600, 300
"""One pool of 256 connections for all peers was what stopped everything."""
LASTING = 0.8
"""The part of them that must be under way at one time: a busy machine refuses some as `overloaded` for a while."""
ACCOUNTS = 8
SLOW = 5000
BEGUN_WITHIN_S = 240
BEGIN_EVERY_S = 0.02
"""The test is that they last, not that all begin in one instant."""
RAW = {"content_type": "application/octet-stream"}
REFUSED_WITHIN_S = 20
"""A hung part is known within seven seconds; the timeouts of the calls themselves are longer than this."""


@pytest.fixture(scope="module")
def load() -> Iterator[Load]:
    with running_fleet() as fleet:
        yield load_of(fleet)


def metric(fleet: Fleet, name: str, metric: str) -> dict[str, float]:
    """Values by label set."""
    text = httpx.get(f"{fleet.url(name)}/metrics", timeout=30).text
    return {labels: float(value) for labels, value in re.findall(rf"^{metric}(\{{.*\}})? (\S+)$", text, re.MULTILINE)}


def in_progress(fleet: Fleet, name: str) -> float:
    return sum(metric(fleet, name, "transfers_in_progress").values())


def is_under_way(fleet: Fleet) -> bool:
    wanted = {"ingester": UPLOADS, "query": DOWNLOADS}
    return all(in_progress(fleet, name) >= LASTING * count for name, count in wanted.items())


def open_breakers(fleet: Fleet, name: str) -> list[str]:
    return [edge for edge, state in metric(fleet, name, "circuit_breaker_state").items() if state]


def test_hundreds_of_slow_transfers_hold_up_no_other_request(load: Load) -> None:
    """The accounts are several, each within its limit. Their elements and admin serve everybody else."""
    fleet = load.fleet
    file_id = fleet.upload(load.token, os.urandom(8_000_000)).json()["file_id"]
    tokens = [fleet.token(fleet.new_account()) for _ in range(ACCOUNTS)]
    body = bytes(3_000_000)

    async def run() -> None:
        crowd = Crowd()
        for number in range(UPLOADS):
            request = head(
                "POST", "/api/files/upload?filename=a", tokens[number % ACCOUNTS], content_length="3000000", **RAW
            )
            upload = partial(send, fleet.url("ingester"), request + body[:100_000], body[100_000:], SLOW)
            crowd.begin(until_admitted(upload))
            await asyncio.sleep(BEGIN_EVERY_S)
        for number in range(DOWNLOADS):
            request = head("GET", f"/api/files/{file_id}/content", tokens[number % ACCOUNTS])
            crowd.begin(until_admitted(partial(read, fleet.url("query"), request, SLOW)))
            await asyncio.sleep(BEGIN_EVERY_S)
        try:
            await asyncio.to_thread(
                eventually,
                lambda: is_under_way(fleet),
                BEGUN_WITHIN_S,
            )
            seen = await asyncio.to_thread(load.run, 10)
            assert {(one.what, one.status) for one in seen if one.status not in (200, 201)} == set()
            assert is_under_way(fleet)
            for name in ("ingester", "query", "admin-1", "se-01", "se-02"):
                assert httpx.get(f"{fleet.url(name)}/health/ready", timeout=30).status_code == 200
                assert open_breakers(fleet, name) == []
        finally:
            await crowd.end()

    asyncio.run(run())


def test_transfers_of_one_account_over_the_limit_are_refused_with_the_reason(load: Load) -> None:
    fleet = load.fleet
    token = fleet.token(fleet.new_account())
    request = head("POST", "/api/files/upload?filename=a", token, content_length="3000000", **RAW)

    async def run() -> None:
        crowd = Crowd()
        for _ in range(128):
            crowd.begin(send(fleet.url("ingester"), request, bytes(3_000_000), SLOW))
        try:
            await asyncio.to_thread(eventually, lambda: in_progress(fleet, "ingester") >= 128)
            refused = await asyncio.to_thread(fleet.upload, token)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
            assert (await asyncio.to_thread(fleet.upload, load.token)).status_code == 201
        finally:
            await crowd.end()
        await asyncio.to_thread(eventually, lambda: fleet.upload(token).status_code == 201)

    asyncio.run(run())


@pytest.mark.parametrize("part", ["se-02", "admin-1"])
def test_a_part_that_hangs_is_found_long_before_the_timeouts_of_its_calls(load: Load, part: str) -> None:
    """se-02 for readers and writers of its files, admin for uploads. Before, each of five calls waited 30 s or 10 s."""
    fleet = load.fleet
    large = os.urandom(1_000_000)
    uncached = fleet.upload(load.token, large).json()["file_id"]  # never read, so not in the memory of query
    with frozen(fleet.processes[part].pid), httpx.Client(timeout=REFUSED_WITHIN_S) as client:
        headers = {"authorization": f"Bearer {load.token}", "content-type": "application/octet-stream"}
        asks = [("POST", f"{fleet.url('ingester')}/api/files/upload?filename=a", b) for b in (b"small", large)]
        if part == "se-02":
            asks.append(("GET", f"{fleet.url('query')}/api/files/{uncached}/content", b""))
        for method, url, content in asks:
            answer = client.request(method, url, content=content, headers=headers)
            assert answer.status_code == 503, url
            assert int(answer.headers["retry-after"]) <= 5
    eventually(lambda: {one.status for one in load.run(1)} <= {200, 201})
