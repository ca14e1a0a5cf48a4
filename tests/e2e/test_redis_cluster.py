"""The story of a file over a Valkey Cluster of three masters: caches, limits, registry and keys work across instances, and a
lost master costs nothing but cache hits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest
from support.fleet import Fleet, eventually, running_fleet

from artstore.contracts.elements import SNAPSHOT_KEY
from artstore.redis_cluster import HOME
from artstore.testing.services import temporary_folder
from artstore.testing.valkey_cluster import ValkeyCluster, running_cluster

NAMES = ("admin-1", "admin-2", "se-01", "se-02", "ingester", "query", "query-2")
QUERIES = ("query", "query-2")
RATE = 60


@pytest.fixture(scope="module")
def cluster() -> Iterator[ValkeyCluster]:
    with temporary_folder("artstore-cluster-") as folder, running_cluster(folder) as started:
        yield started


@pytest.fixture(scope="module")
def fleet(cluster: ValkeyCluster) -> Iterator[Fleet]:
    with running_fleet(NAMES, cluster=cluster) as started:
        yield started


@pytest.fixture(scope="module")
def token(fleet: Fleet) -> str:
    return fleet.token()


def stored(fleet: Fleet, token: str, content: bytes = b"content") -> dict[str, Any]:
    """In the element that permits changes."""
    answer = fleet.upload(token, content, retention="temporary")
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def read(fleet: Fleet, name: str, file_id: str, token: str) -> httpx.Response:
    return fleet.call("GET", name, f"/api/files/{file_id}", token)


def source(fleet: Fleet, name: str, file_id: str, token: str) -> str:
    return read(fleet, name, file_id, token).headers["x-artstore-source"]


def test_a_file_is_cached_by_all_instances_and_a_change_reaches_all_at_once(fleet: Fleet, token: str) -> None:
    file_id = stored(fleet, token)["file_id"]
    assert source(fleet, "query", file_id, token) == "database"
    assert source(fleet, "query", file_id, token) == "memory"
    eventually(lambda: source(fleet, "query-2", file_id, token) in ("redis", "memory"))
    for revision in range(2, 12):
        answer = fleet.call("PATCH", "ingester", f"/api/files/{file_id}", token, json={"tags": [str(revision)]})
        assert answer.status_code == 200, answer.text
        assert [read(fleet, name, file_id, token).json()["revision"] for name in QUERIES] == [revision] * 2
    assert fleet.call("DELETE", "ingester", f"/api/files/{file_id}", token).status_code == 204
    assert [read(fleet, name, file_id, token).status_code for name in QUERIES] == [404, 404]


def test_a_file_that_one_instance_has_read_comes_from_redis_in_the_other(
    fleet: Fleet, cluster: ValkeyCluster, token: str
) -> None:
    """Once both agree on the epoch of the cache, a second after they have started."""

    def shared() -> bool:
        file_id = stored(fleet, token)["file_id"]
        read(fleet, "query", file_id, token)
        eventually(lambda: cluster.master_of(HOME).run("EXISTS", f"{HOME}{file_id}"))
        return source(fleet, "query-2", file_id, token) == "redis"

    eventually(shared)


def test_the_limit_of_an_account_holds_across_instances(fleet: Fleet) -> None:
    account = fleet.new_account("USER", rate_per_minute=RATE)
    token = fleet.token({name: account[name] for name in ("client_id", "client_secret")})
    began_s = time.monotonic()
    answers = [fleet.call("GET", QUERIES[each % 2], "/api/files", token) for each in range(2 * RATE)]
    allowed = [answer.status_code for answer in answers].count(200)
    assert RATE <= allowed <= RATE + (time.monotonic() - began_s) * RATE / 60 + 2
    assert {answer.status_code for answer in answers} == {200, 429}


def test_registry_and_revocations_come_through_the_cluster(fleet: Fleet, cluster: ValkeyCluster, token: str) -> None:
    for name in ("ingester", *QUERIES):
        assert 'discovery_source{source="redis"} 1.0' in httpx.get(f"{fleet.url(name)}/metrics", timeout=30).text
    before = cluster.master_of(SNAPSHOT_KEY).run("GET", SNAPSHOT_KEY)
    answer = fleet.call("PATCH", "admin-1", "/api/storage-elements/se-02", token, json={"priority": 7})
    assert answer.status_code == 200, answer.text
    eventually(lambda: cluster.master_of(SNAPSHOT_KEY).run("GET", SNAPSHOT_KEY) != before)
    account = fleet.new_account()
    theirs = fleet.token({name: account[name] for name in ("client_id", "client_secret")})
    assert fleet.call("GET", "query", "/api/files", theirs).status_code == 200
    assert fleet.call("DELETE", "admin-1", f"/api/service-accounts/{account['id']}", token).status_code == 204
    eventually(lambda: fleet.call("GET", "query", "/api/files", theirs).status_code == 401)


def test_a_lost_master_costs_no_request_and_no_file(fleet: Fleet, cluster: ValkeyCluster, token: str) -> None:
    victim = cluster.master_of(HOME)
    kept = [stored(fleet, token)["file_id"] for _ in range(3)]
    for file_id in kept:
        read(fleet, "query", file_id, token)
    victim.kill()
    for revision, file_id in enumerate(kept):
        answer = fleet.call("PATCH", "ingester", f"/api/files/{file_id}", token, json={"tags": [str(revision)]})
        assert answer.status_code == 200, answer.text
        assert [read(fleet, name, file_id, token).json()["tags"] for name in QUERIES] == [[str(revision)]] * 2
    kept.append(stored(fleet, token)["file_id"])
    eventually(lambda: read(fleet, "query", kept[0], token).headers.get("x-artstore-degraded") == "redis")
    victim.start()
    for name in QUERIES:
        eventually(partial(is_whole, fleet, name, kept[0], token))
    for file_id in kept:
        assert [read(fleet, name, file_id, token).status_code for name in QUERIES] == [200, 200]
    eventually(lambda: source(fleet, "query-2", kept[0], token) == "memory")


def is_whole(fleet: Fleet, name: str, file_id: str, token: str) -> bool:
    return "x-artstore-degraded" not in read(fleet, name, file_id, token).headers
