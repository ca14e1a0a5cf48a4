"""A service gets SIGTERM while requests run: it is not ready, what ends in time is answered, the rest is refused
clearly and leaves nothing, and a second instance behind the gateway hides the stop from clients that repeat once.

One fleet, in which each test starts again what it has stopped.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import asyncpg
import httpx
import pytest
from support.fleet import Fleet, eventually, make_database, running_fleet
from support.layout import SMALL

LIMIT_S = 4
PIECE, PIECES_EVERY_S = 65_536, 0.05
SOME_BYTES = 20 * PIECE
MOMENTS_S = (0.0, 0.1, 0.3, 0.6)
"""After the begin of a start."""
MIGRATION_LOCK = 0x6172_7473_0001
WAITS = """SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
    WHERE locktype = 'advisory' AND NOT granted AND datname = $1"""
TUS = {"tus-resumable": "1.0.0", "content-type": "application/offset+octet-stream"}


@dataclass
class Place:
    fleet: Fleet
    token: str
    gateway: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}", "content-type": "application/octet-stream"}

    def content(self, file_id: str) -> bytes:
        return self.fleet.call("GET", "query", f"/api/files/{file_id}/content", self.token).content

    def again(self, name: str) -> None:
        self.fleet.start(name)
        self.fleet.ready(name)

    def sagas(self) -> list[dict[str, Any]]:
        page = self.fleet.call("GET", "admin-1", "/api/sagas?state=begun", self.token).json()
        return list(page["items"])


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    names = (*SMALL, "ingester-2", "query-2")
    with running_fleet(names, settings={"SHUTDOWN_TIMEOUT_S": str(LIMIT_S)}) as fleet:
        yield Place(fleet, fleet.token(), fleet.start_gateway())


@dataclass
class SlowBody:
    """Sends pieces until it is told to end."""

    over: threading.Event = field(default_factory=threading.Event)
    sent: bytearray = field(default_factory=bytearray)

    def pieces(self) -> Iterator[bytes]:
        while not self.over.is_set():
            piece = os.urandom(PIECE)
            self.sent += piece
            yield piece
            self.over.wait(PIECES_EVERY_S)

    def is_under_way(self) -> bool:
        return len(self.sent) >= SOME_BYTES


@contextmanager
def slow_request(ask: Callable[[Iterator[bytes]], httpx.Response]) -> Iterator[tuple[SlowBody, Future[httpx.Response]]]:
    """A request that sends its body for as long as the block wants."""
    body = SlowBody()
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(ask, body.pieces())
        try:
            eventually(body.is_under_way)
            yield body, running
        finally:
            body.over.set()


def upload(place: Place, content: Iterator[bytes] | bytes) -> httpx.Response:
    return httpx.post(
        f"{place.fleet.url('ingester')}/api/files/upload?filename=a",
        content=content,
        headers=place.headers,
        timeout=120,
    )


def ready_status(place: Place, name: str) -> int:
    try:
        return httpx.get(f"{place.fleet.url(name)}/health/ready", timeout=30).status_code
    except httpx.TransportError:
        return 0


# Requests that end in time -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ingester", "se-02"])
def test_a_stop_waits_for_a_running_upload_and_is_not_ready_meanwhile(place: Place, name: str) -> None:
    """A second SIGTERM changes nothing."""
    with slow_request(lambda pieces: upload(place, pieces)) as (body, running):
        process = place.fleet.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        eventually(lambda: ready_status(place, name) == 503)
        process.send_signal(signal.SIGTERM)
        assert process.poll() is None
        body.over.set()
        answer = running.result()
    assert process.wait(60) == 0
    assert answer.status_code == 201, answer.text
    place.again(name)
    assert place.content(answer.json()["file_id"]) == bytes(body.sent)


def test_a_reader_that_waits_for_changes_does_not_hold_a_stop_up(place: Place) -> None:
    newest = place.fleet.call("GET", "query", "/api/changes?limit=1000", place.token).json()["next_cursor"]
    path = f"{place.fleet.url('query')}/api/changes?wait_s=30&since={newest}"
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(httpx.get, path, headers=place.headers, timeout=60)
        eventually(lambda: "http_requests_in_flight 2.0" in httpx.get(f"{place.fleet.url('query')}/metrics").text)
        place.fleet.stop("query")
        answer = waiting.result()
    assert (answer.status_code, answer.json()) == (200, {"items": [], "next_cursor": newest})
    place.again("query")


# Requests that take longer than the stop -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ingester", "se-02"])
def test_an_upload_that_outlasts_a_stop_is_refused_clearly_and_leaves_nothing(place: Place, name: str) -> None:
    with slow_request(lambda pieces: upload(place, pieces)) as (body, running):
        (saga,) = eventually(place.sagas)
        place.fleet.stop(name)
        body.over.set()  # this client reads no answer before it has sent everything
        answer = running.result()
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    place.again(name)
    # The saga was handed back: nothing waits for the end of its lease.
    eventually(lambda: not place.sagas())
    assert place.fleet.call("GET", "query", f"/api/files/{saga['file_id']}", place.token).status_code == 404
    for element in ("se-01", "se-02"):
        assert not list((place.fleet.folder / element / "tmp").iterdir())
    assert "Traceback" not in (place.fleet.folder / f"{name}.log").read_text()
    assert eventually(lambda: upload(place, b"again").status_code == 201)


@pytest.mark.parametrize("name", ["ingester", "se-02"])
def test_a_resumable_upload_that_outlasts_a_stop_goes_on_from_what_was_received(place: Place, name: str) -> None:
    headers = {**place.headers, **TUS}
    made = place.fleet.call(
        "POST", "ingester", "/api/uploads", place.token, headers={**TUS, "upload-defer-length": "1"}
    )
    path = made.headers["location"]

    def patch(offset: int, content: Iterator[bytes] | bytes, **more: str) -> httpx.Response:
        sent = {**headers, "upload-offset": str(offset), **more}
        return httpx.patch(place.fleet.url("ingester") + path, content=content, headers=sent, timeout=120)

    with slow_request(lambda pieces: patch(0, pieces)) as (body, running):
        place.fleet.stop(name)
        body.over.set()
        assert running.result().status_code == 503
    place.again(name)

    def received() -> int | None:
        answer = place.fleet.call("HEAD", "ingester", path, place.token, headers=TUS)
        return int(answer.headers["upload-offset"]) if answer.status_code == 200 else None

    offset = eventually(received)
    assert offset >= SOME_BYTES // 2
    rest = bytes(body.sent[offset:]) + b"the end"
    done = patch(offset, rest, **{"upload-length": str(offset + len(rest))})
    assert done.status_code == 204, done.text
    assert place.content(done.headers["x-artstore-file-id"]) == bytes(body.sent) + b"the end"


@pytest.mark.parametrize("name", ["query", "se-02"])
def test_a_download_that_outlasts_a_stop_breaks_off_and_goes_on_by_range(place: Place, name: str) -> None:
    content = os.urandom(48 << 20)  # more than the buffers of all sockets between
    file_id = upload(place, content).json()["file_id"]
    url = f"{place.fleet.url('query')}/api/files/{file_id}/content"
    got = bytearray()
    with httpx.stream("GET", url, headers=place.headers, timeout=120) as response:
        assert response.headers["content-length"] == str(len(content))
        parts = response.iter_raw(PIECE)
        got += next(parts)
        place.fleet.stop(name)
        with pytest.raises(httpx.RemoteProtocolError):  # never a short content that looks whole
            read_into(got, parts)
    assert len(got) < len(content)
    place.again(name)
    headers = {**place.headers, "range": f"bytes={len(got)}-", "if-range": response.headers["etag"]}
    rest = eventually(lambda: whole(httpx.get(url, headers=headers, timeout=120)))
    assert bytes(got) + rest == content


def read_into(got: bytearray, parts: Iterator[bytes]) -> None:
    for part in parts:
        got += part


def whole(answer: httpx.Response) -> bytes | None:
    return answer.content if answer.status_code == 206 else None


# Behind the gateway --------------------------------------------------------------------------------------------------


@dataclass
class Client:
    """Repeats a failed request once, and notes what failed twice."""

    place: Place
    failed: list[str] = field(default_factory=list)
    repeated: int = 0
    acknowledged: dict[str, bytes] = field(default_factory=dict)

    def run(self, ended: threading.Event, file_id: str) -> None:
        with httpx.Client(timeout=120, base_url=self.place.gateway) as client:
            while not ended.is_set():
                content = os.urandom(4000)
                stored = self.ask(client, "POST", "/api/files/upload?filename=a", content=content)
                if stored is not None:
                    self.acknowledged[stored.json()["file_id"]] = content
                self.ask(client, "GET", f"/api/files/{file_id}/content")
                self.ask(client, "GET", "/api/files?limit=5")
                self.ask(client, "POST", "/api/auth/token", json=self.place.fleet.credentials("admin"))

    def ask(self, client: httpx.Client, method: str, path: str, **options: Any) -> httpx.Response | None:
        why = ""
        headers = {"authorization": self.place.headers["authorization"]}
        if "content" in options:
            headers["content-type"] = "application/octet-stream"
        for _ in range(2):
            try:
                answer = client.request(method, path, headers=headers, **options)
            except httpx.TransportError as error:
                why += f"{error!r} "
                continue
            if answer.status_code < 500:
                self.repeated += bool(why)
                return answer
            why += f"{answer.status_code} {answer.text} "
        self.failed.append(f"{method} {path}: {why}")
        return None


def acknowledged(clients: list[Client]) -> int:
    return sum(len(client.acknowledged) for client in clients)


def has_acknowledged(clients: list[Client], wanted: int) -> bool:
    return acknowledged(clients) > wanted


def test_stops_one_after_another_are_hidden_by_the_second_instance(place: Place) -> None:
    file_id = upload(place, b"content").json()["file_id"]
    ended, clients = threading.Event(), [Client(place) for _ in range(6)]
    with ThreadPoolExecutor(len(clients)) as threads:
        running = [threads.submit(client.run, ended, file_id) for client in clients]
        try:
            for name in ("ingester", "query", "admin-1", "ingester-2", "query-2", "admin-2"):
                wanted = acknowledged(clients) + 20
                place.fleet.stop(name)
                place.again(name)
                eventually(partial(has_acknowledged, clients, wanted))
        finally:
            ended.set()
        for each in running:
            each.result()
    print(f"{sum(client.repeated for client in clients)} requests were repeated")
    assert [each for client in clients for each in client.failed] == []
    for client in clients:
        for stored, content in client.acknowledged.items():
            assert place.content(stored) == content


# Starts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["admin-2", "se-01", "ingester-2", "query-2"])
def test_a_stop_at_any_moment_of_a_start_ends_it_and_the_next_start_succeeds(place: Place, name: str) -> None:
    place.fleet.stop(name, signal.SIGKILL)  # so that an element has something to recover
    for moment_s in MOMENTS_S:
        place.fleet.start(name)
        time.sleep(moment_s)
        process = place.fleet.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)
    place.again(name)


def test_a_stop_during_a_migration_ends_it_and_the_next_start_makes_it(place: Place) -> None:
    """Admin waits for the lock of another admin that migrates."""
    fleet = place.fleet
    whole, fleet.database = fleet.database, f"{fleet.database}_new"
    try:
        make_database(fleet)
        with held_lock(fleet) as waits:
            fleet.start("admin-9")
            eventually(waits)
            fleet.stop("admin-9")
        place.again("admin-9")
        fleet.stop("admin-9")
    finally:
        fleet.database = whole


@contextmanager
def held_lock(fleet: Fleet) -> Iterator[Callable[[], bool]]:
    """The lock under which the schema is migrated. The value: whether somebody waits for it."""
    with asyncio.Runner() as runner:
        port, database = fleet.postgres.port, fleet.database
        connection = runner.run(asyncpg.connect(host="127.0.0.1", port=port, user="postgres", database=database))
        runner.run(connection.execute("SELECT pg_advisory_lock($1)", MIGRATION_LOCK))
        try:
            yield lambda: bool(runner.run(connection.fetchval(WAITS, database)))
        finally:
            runner.run(connection.close())
