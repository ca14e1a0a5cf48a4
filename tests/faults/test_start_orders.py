"""Services, PostgreSQL and Valkey start in any order: the system comes up by itself and has kept everything.

One fleet that is stopped and started again in each order; what starts late finds the others waiting for it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial

import httpx
import pytest
from support.fleet import Fleet, eventually, running_fleet
from support.layout import SMALL

PARTS = ("postgres", "valkey", *SMALL)
RETENTIONS = ("permanent", "temporary")
SEEDS = range(4)
"""A few of 40 320 orders; with those below each part is once the first and once the last."""
LAST_FIRST = [PARTS[at:] + PARTS[:at] for at in range(len(PARTS))]
ORDERS = [*LAST_FIRST, *(tuple(random.Random(seed).sample(PARTS, len(PARTS))) for seed in SEEDS)]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with running_fleet() as started:
        yield started


def start(fleet: Fleet, part: str) -> None:
    if part == "postgres":
        fleet.start_postgres()
    elif part == "valkey":
        fleet.start_valkey()
    else:
        fleet.start(part)
        eventually(lambda: is_live(fleet, part))


def is_live(fleet: Fleet, name: str) -> bool:
    try:
        return httpx.get(f"{fleet.url(name)}/health/live", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def stop(fleet: Fleet, part: str) -> None:
    if part == "postgres":
        fleet.postgres.stop()
    elif part == "valkey":
        fleet.valkey.stop()
    else:
        fleet.stop(part)


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: "-".join(order))
def test_the_parts_stop_and_start_in_any_order_and_keep_everything(fleet: Fleet, order: tuple[str, ...]) -> None:
    kept = [eventually(partial(stored, fleet, fleet.token(), retention)) for retention in RETENTIONS]
    for part in order:
        stop(fleet, part)
    for part in order:
        start(fleet, part)
    fleet.ready(*SMALL)
    token = fleet.token()
    for file_id in kept:
        assert eventually(partial(content, fleet, token, file_id)) == b"content"
        assert fleet.call("GET", "query", f"/api/files/{file_id}", token).status_code == 200
    for retention in RETENTIONS:  # without a step by hand
        assert eventually(partial(stored, fleet, token, retention))


def stored(fleet: Fleet, token: str, retention: str) -> str | None:
    answer = fleet.upload(token, retention=retention)
    return str(answer.json()["file_id"]) if answer.status_code == 201 else None


def content(fleet: Fleet, token: str, file_id: str) -> bytes | None:
    answer = fleet.call("GET", "query", f"/api/files/{file_id}/content", token)
    return answer.content if answer.status_code == 200 else None
