"""Two query instances never answer deleted data from their caches, while PostgreSQL and Redis go and come back."""

from __future__ import annotations

import asyncio
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import asyncpg
import httpx
import pytest
from redis import Redis
from support.fleet import Fleet, eventually, running_fleet
from support.layout import SMALL

from artstore.contracts.storage import SAGA_HEADER
from artstore.testing.services import frozen

QUERIES = ("query", "query-2")
MEMORY_TTL_S = 4
READERS = 4


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with running_fleet((*SMALL, "query-2"), {"CACHE_MEMORY_TTL_S": str(MEMORY_TTL_S)}) as started:
        yield started


@dataclass
class User:
    """One client with connections it keeps, as programs do."""

    fleet: Fleet
    token: str
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(headers={"authorization": f"Bearer {self.token}"}, timeout=60)

    def put(self, name: str = "first") -> str:
        params = {"filename": name, "retention": "temporary"}
        answer = self.fleet.upload(self.token, b"content", **params)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["file_id"])

    def patch(self, file_id: str, name: str) -> None:
        path = f"{self.fleet.url('ingester')}/api/files/{file_id}"
        answer = self.client.patch(path, json={"filename": name})
        assert answer.status_code == 200, answer.text

    def delete(self, file_id: str) -> None:
        answer = self.client.delete(f"{self.fleet.url('ingester')}/api/files/{file_id}")
        assert answer.status_code == 204, answer.text

    def read(self, query: str, file_id: str, what: str = "") -> httpx.Response:
        return self.client.get(f"{self.fleet.url(query)}/api/files/{file_id}{what}")

    def names(self, file_id: str) -> list[str]:
        """As each query instance has it now."""
        return [self.read(query, file_id).json().get("filename", "gone") for query in QUERIES]


@pytest.fixture(scope="module")
def user(fleet: Fleet) -> User:
    return User(fleet, fleet.token())


@contextmanager
def reading(user: User, file_ids: list[str], wrong: Callable[[httpx.Response, float], bool]) -> Iterator[list[str]]:
    """Reads all the time, from both instances; what `wrong` says of an answer and when it was asked for is gathered."""
    faults: list[str] = []
    ended = threading.Event()

    def run(number: int) -> None:
        mine = User(user.fleet, user.token)
        while not ended.is_set():
            for file_id in file_ids:
                asked_s = time.monotonic()
                answer = mine.read(QUERIES[number % 2], file_id)
                if wrong(answer, asked_s):
                    faults.append(f"{answer.status_code} {dict(answer.headers)} {answer.text}")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(READERS)]
    for thread in threads:
        thread.start()
    try:
        yield faults
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def sql(fleet: Fleet, statement: str) -> int:
    async def run() -> int:
        connection = await asyncpg.connect(fleet.postgres.url(fleet.database).replace("+asyncpg", ""))
        try:
            return int(await connection.fetchval(statement) or 0)
        finally:
            await connection.close()

    return asyncio.run(run())


def metric(fleet: Fleet, name: str, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", httpx.get(f"{fleet.url(name)}/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def source_of(fleet: Fleet, name: str) -> str:
    """The source of this process's registry, as an operator sees it."""
    return str(httpx.get(f"{fleet.url(name)}/health/ready").json()["checks"]["discovery"]["detail"])


def _is_fed_from(source: str, fleet: Fleet, name: str) -> bool:
    return f"from {source}" in source_of(fleet, name)


def _is_whole(user: User, query: str, file_id: str) -> bool:
    return "x-artstore-degraded" not in user.read(query, file_id).headers


def _has_news_of_redis(fleet: Fleet, name: str) -> bool:
    from_redis = metric(fleet, name, 'discovery_source{source="redis"}') == 1
    return from_redis and metric(fleet, name, "discovery_age_seconds") < 3


def test_every_instance_shows_a_change_once_it_is_acknowledged(fleet: Fleet, user: User) -> None:
    file_id = user.put()
    told = metric(fleet, "se-01", 'readers_told_total{result="heard"}')
    for number in range(40):
        user.names(file_id)  # so that both remember the revision before
        user.patch(file_id, f"name {number}")
        assert user.names(file_id) == [f"name {number}"] * 2
    user.delete(file_id)
    for query in QUERIES:
        assert user.read(query, file_id).status_code == 404
        assert user.read(query, file_id, "/content").status_code == 404
    assert metric(fleet, "se-01", 'readers_told_total{result="heard"}') == told + 41


def test_an_instance_that_hangs_is_waited_for_and_then_counted(fleet: Fleet, user: User) -> None:
    file_id = user.put()
    assert user.names(file_id) == ["first", "first"]
    silent = metric(fleet, "se-01", 'readers_told_total{result="silent"}')
    with frozen(fleet.processes["query-2"].pid):
        user.patch(file_id, "second")
        assert user.read("query", file_id).json()["filename"] == "second"
    assert metric(fleet, "se-01", 'readers_told_total{result="silent"}') == silent + 1
    eventually(lambda: user.names(file_id) == ["second", "second"])


def test_reads_under_way_bring_nothing_deleted_back(fleet: Fleet, user: User) -> None:
    for _ in range(6):
        file_id = user.put()
        deleted_s: list[float] = []

        def wrong(answer: httpx.Response, asked_s: float, deleted_s: list[float] = deleted_s) -> bool:
            return answer.status_code != (404 if deleted_s and asked_s > deleted_s[0] else answer.status_code)

        with reading(user, [file_id], wrong) as faults:
            for number in range(5):
                user.patch(file_id, f"name {number}")
            user.delete(file_id)
            deleted_s.append(time.monotonic())
            time.sleep(0.3)
        assert faults == []
        assert user.names(file_id) == ["gone", "gone"]


def test_every_read_answers_while_the_catalog_is_emptied_and_redis_flushed(fleet: Fleet, user: User) -> None:
    file_ids = [user.put(f"file {number}") for number in range(8)]
    eventually(lambda: not any(_is_open(user, file_id) for file_id in file_ids))
    redis = Redis.from_url(fleet.valkey.url())
    ids = ", ".join(f"'{file_id}'" for file_id in file_ids)
    counted = f"SELECT count(*) FROM files WHERE file_id IN ({ids})"  # a rebuild may bring back others
    with reading(user, file_ids, lambda answer, _: answer.status_code != 200) as faults:
        for _ in range(4):
            sql(fleet, "TRUNCATE files")
            redis.flushall()
            eventually(lambda: sql(fleet, counted) == len(file_ids))
            time.sleep(MEMORY_TTL_S / 2)
    assert faults == []
    for query in QUERIES:
        eventually(partial(_all_from, user, query, file_ids, "memory"))
    for level in ("memory", "redis", "database", "attributes"):
        series = f'lookup_level_total{{level="{level}",result="hit"}}'
        # The sum of both: one that always asks first fills Redis for the other, and finds nothing there itself.
        assert sum(metric(fleet, query, series) for query in QUERIES) > 0, level
    redis.close()


def _is_open(user: User, file_id: str) -> bool:
    """Until the element has seen the upload committed, its row may not be written again: it might be undone."""
    return SAGA_HEADER in user.client.get(f"{user.fleet.url('se-01')}/api/files/{file_id}").headers


def _all_from(user: User, query: str, file_ids: list[str], source: str) -> bool:
    answers = [user.read(query, file_id) for file_id in file_ids]
    return {(answer.status_code, answer.headers["x-artstore-source"]) for answer in answers} == {(200, source)}


def test_with_postgresql_away_a_deleted_file_is_gone_and_stays_so_when_it_is_back(fleet: Fleet, user: User) -> None:
    deleted, changed = user.put(), user.put()
    for file_id in (deleted, changed):
        assert user.names(file_id) == ["first", "first"]
    fleet.postgres.discard()
    user.patch(changed, "second")
    user.delete(deleted)
    assert user.names(changed) == ["second", "second"]
    assert user.names(deleted) == ["gone", "gone"]

    def old(answer: httpx.Response, _asked_s: float) -> bool:
        return answer.status_code == 200 and answer.json()["filename"] == "first"

    with reading(user, [deleted, changed], old) as faults:
        fleet.start_postgres()
        fleet.ready("admin-1", "admin-2", "ingester", "se-01")
        eventually(lambda: sql(fleet, f"SELECT count(*) FROM files WHERE file_id = '{deleted}'") == 0)
        eventually(lambda: sql(fleet, f"SELECT revision FROM files WHERE file_id = '{changed}'") == 2)
    assert faults == []


def test_without_redis_a_change_shows_at_once_and_every_answer_says_so(fleet: Fleet, user: User) -> None:
    changed, deleted = user.put(), user.put()
    assert user.names(changed) + user.names(deleted) == ["first"] * 4
    fleet.valkey.process.kill()
    fleet.valkey.process.wait()
    user.patch(changed, "second")
    user.delete(deleted)
    assert user.names(changed) + user.names(deleted) == ["second", "second", "gone", "gone"]
    for query in QUERIES:
        assert "redis" in user.read(query, changed).headers["x-artstore-degraded"]
        eventually(partial(_is_fed_from, "admin", fleet, query))
        assert metric(fleet, query, 'discovery_source{source="admin"}') == 1
    fleet.start_valkey()
    for query in QUERIES:
        eventually(partial(_is_whole, user, query, changed))
    for name in (*QUERIES, "ingester"):
        eventually(partial(_is_fed_from, "redis", fleet, name))
    user.patch(changed, "third")
    assert user.names(changed) == ["third", "third"]


def test_with_redis_and_admin_away_the_last_registry_is_used_and_its_age_is_reported(fleet: Fleet, user: User) -> None:
    file_id = user.put()
    fleet.valkey.process.send_signal(signal.SIGSTOP)  # a cut line: nothing is refused, nothing answers
    for admin in ("admin-1", "admin-2"):
        fleet.stop(admin, signal.SIGKILL)
    before = metric(fleet, "query", "discovery_age_seconds")
    eventually(lambda: metric(fleet, "query", "discovery_age_seconds") > before + 5)
    assert re.search(r"2 elements from (redis|admin), confirmed \d+ s ago", source_of(fleet, "query"))
    assert user.read("query", file_id).status_code == 200
    assert user.read("query", file_id, "/content").content == b"content"
    fleet.valkey.process.send_signal(signal.SIGCONT)
    for name in (*QUERIES, "ingester"):
        eventually(partial(_has_news_of_redis, fleet, name))
    for admin in ("admin-1", "admin-2"):
        fleet.start(admin)
    fleet.ready("admin-1", "admin-2")
