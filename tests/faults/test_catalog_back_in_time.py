"""PostgreSQL comes back in an earlier state, or empty: no acknowledged file is gone, and the lists are complete again.

Each drill has files of every age: known to the backup, uploaded between its pending row and its commit while the backup was
made, begun before the backup and stored after it, and stored after it as a whole; on elements in rw, ro and ar. Then the
fleet is killed or stopped, the backup restored, and all is waited for until every lease is over.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
import pytest
import redis
from support.buckets import Bucket, running_bucket
from support.fleet import Fleet, eventually, running_fleet
from support.restores import back_up, restore

from artstore.clock import uuid7
from artstore.contracts.files import NewFile
from artstore.contracts.storage import NEW_FILE_HEADER, SAGA_HEADER, encode_new_file

LONG = os.environ.get("ARTSTORE_FAULTS") == "long"
ELEMENTS = {"se-02": "rw", "se-04": "ro", "se-06": "ar"}
"""And the mode that each is in when the database is lost."""
IN_S3 = ("se-02", "se-06")
"""In half of the drills; the other element is on a local disk in all of them."""
NAMES = ("admin-1", "admin-2", *ELEMENTS, "ingester", "query")
LEASE_S = "20"
RENEW_EVERY_S = 1.0
WAIT_S = 240
NEW = NewFile(
    filename="a.bin",
    content_type="application/octet-stream",
    owner="ingester",
    tags=[],
    metadata={},
    retention="permanent",
    expires_at=None,
)
SIZES = (200, 100_000)
"""A file that rides in the log's frame, and one with a sync of its own."""


@dataclass(frozen=True)
class Drill:
    """`by_hand`: an operator also asks for a rebuild of each element as soon as it answers."""

    kind: str
    how: signal.Signals
    redis_emptied: bool
    by_hand: bool

    def __str__(self) -> str:
        redis, hand = "no-redis" if self.redis_emptied else "redis", "by-hand" if self.by_hand else "alone"
        return f"{self.kind}-{self.how.name}-{redis}-{hand}{'-s3' if self.in_s3 else ''}"

    @property
    def in_s3(self) -> bool:
        return self.redis_emptied == self.by_hand


EVERY = [
    Drill(*chosen)
    for chosen in itertools.product(
        ("dump", "folder", "nothing"), (signal.SIGKILL, signal.SIGTERM), (False, True), (False, True)
    )
]
SHORT = [
    Drill("dump", signal.SIGKILL, redis_emptied=False, by_hand=False),
    Drill("folder", signal.SIGKILL, redis_emptied=True, by_hand=False),
    Drill("folder", signal.SIGTERM, redis_emptied=False, by_hand=True),
    Drill("nothing", signal.SIGKILL, redis_emptied=True, by_hand=False),
]


@dataclass
class Uploads:
    """Speaks to admin and elements as an ingester does, so that an upload can be held between any two steps."""

    fleet: Fleet
    bucket: Bucket | None
    contents: dict[str, bytes] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    sagas: dict[str, str] = field(default_factory=dict)

    open: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.token = self.fleet.token(self.fleet.credentials("ingester"))

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """The leases of what is begun go on, as an ingester's do."""
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(RENEW_EVERY_S):
                with suppress(httpx.HTTPError, AssertionError):
                    self.begin(*self.open)

        thread = threading.Thread(target=renew)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def new(self, element: str) -> str:
        file_id = str(uuid7())
        self.contents[file_id] = os.urandom(SIZES[len(self.contents) % 2])
        self.places[file_id], self.sagas[file_id] = element, str(uuid7())
        return file_id

    def begin(self, *file_ids: str) -> None:
        sagas = [
            {
                "saga_id": self.sagas[file_id],
                "file_id": file_id,
                "storage_element_id": self.places[file_id],
                "owner": "ingester",
            }
            for file_id in file_ids
        ]
        self._ask("uploads", {"sagas": sagas})
        self.open |= set(file_ids)

    def put(self, file_id: str) -> dict[str, Any]:
        headers = {SAGA_HEADER: self.sagas[file_id], NEW_FILE_HEADER: encode_new_file(NEW)}
        path, body = f"/api/files/{file_id}", self.contents[file_id]
        headers["content-type"] = "application/octet-stream"

        def stored() -> dict[str, Any] | None:
            answer = self.fleet.call("PUT", self.places[file_id], path, self.token, content=body, headers=headers)
            if answer.status_code == 503:  # admin confirms the root of an element that has just started
                return None
            assert answer.status_code in (200, 201), answer.text
            return dict(answer.json())

        return eventually(stored)

    def commit(self, file_id: str, record: dict[str, Any]) -> None:
        """When it returns, the client would have its 201."""
        self._ask("commit", {"sagas": [{"saga_id": self.sagas[file_id], "attributes": record}]})
        self.open.discard(file_id)

    def upload(self, element: str) -> str:
        file_id = self.new(element)
        self.begin(file_id)
        self.commit(file_id, self.put(file_id))
        return file_id

    def exists(self, file_id: str) -> bool:
        """True if the file's bytes are on the disk or in the bucket of its element."""
        element = self.places[file_id]
        if self.bucket is not None and element in IN_S3:
            return self.bucket.holds(element, file_id)
        return (self.fleet.folder / element / "files" / file_id[-4:-2] / file_id[-2:] / file_id).exists()

    def _ask(self, what: str, body: dict[str, Any]) -> None:
        def answered() -> httpx.Response | None:
            answer = self.fleet.call("POST", "admin-1", f"/api/sagas/{what}", self.token, json=body)
            return None if answer.status_code == 503 else answer  # as an ingester does while PostgreSQL restarts

        answer = eventually(answered)
        assert answer.status_code == 200, answer.text
        assert {one["problem"] for one in answer.json()["results"]} <= {None}, answer.text


@pytest.mark.parametrize("drill", EVERY if LONG else SHORT, ids=str)
def test_no_acknowledged_file_is_lost_and_the_lists_are_whole_again(drill: Drill) -> None:
    with ExitStack() as stack:
        bucket = stack.enter_context(running_bucket()) if drill.in_s3 else None
        own_settings = {element: bucket.settings(element) for element in IN_S3} if bucket else {}
        settings = {"SAGA_LEASE_S": LEASE_S, "AUDIT_CHECKPOINT_EVERY_S": "5"}
        fleet = stack.enter_context(running_fleet(NAMES, settings, own_settings=own_settings))
        uploads = Uploads(fleet, bucket)
        acknowledged = _uploaded_around_a_backup(fleet, uploads, drill)
        _close(fleet)
        _lose_the_database(fleet, drill)
        _wait_for_every_lease(uploads)
        _require_kept(fleet, uploads, acknowledged)
        _require_told(fleet, drill)


def _uploaded_around_a_backup(fleet: Fleet, uploads: Uploads, drill: Drill) -> list[str]:
    """Ids of the acknowledged files of all ages, on all elements. The backup is in the fleet's folder."""
    before = [uploads.upload(element) for element in ELEMENTS for _ in SIZES]
    rowed = [uploads.new(element) for element in ELEMENTS for _ in SIZES]
    begun = [uploads.new(element) for element in ELEMENTS for _ in SIZES]
    with uploads.renewed():
        uploads.begin(*rowed, *begun)
        records = {file_id: uploads.put(file_id) for file_id in rowed}
        back_up(fleet, drill.kind)
        fleet.ready(*NAMES)
        records |= {file_id: uploads.put(file_id) for file_id in begun}
        for file_id, record in records.items():
            uploads.commit(file_id, record)
    after = [uploads.upload(element) for element in ELEMENTS for _ in SIZES]
    eventually(lambda: all(_unconfirmed(fleet, element) == 0 for element in ELEMENTS))
    last = [uploads.upload(element) for element in ELEMENTS]
    return [*before, *rowed, *begun, *after, *last]


def _unconfirmed(fleet: Fleet, element: str) -> int:
    service = fleet.token(fleet.credentials("query"))
    return int(fleet.call("GET", element, "/api/element", service).json()["upkeep"]["unconfirmed_files"])


def _close(fleet: Fleet) -> None:
    for element, mode in ELEMENTS.items():
        for step in {"rw": (), "ro": ("ro",), "ar": ("ro", "ar")}[mode]:
            path = f"/api/storage-elements/{element}/mode"
            assert fleet.call("POST", "admin-1", path, json={"mode": step}).status_code == 200


def _lose_the_database(fleet: Fleet, drill: Drill) -> None:
    for name in NAMES:
        fleet.stop(name, drill.how)
    restore(fleet, drill.kind, fleet.folder / f"backup-{drill.kind}")
    if drill.redis_emptied:
        fleet.valkey.flush()
    for name in NAMES:
        fleet.start(name)
    fleet.ready(*NAMES)
    eventually(fleet.elements_are_announced, WAIT_S)
    if drill.by_hand:
        for element in ELEMENTS:
            eventually(partial(_is_begun, fleet, f"/api/storage-elements/{element}/rebuild"), WAIT_S)


def _is_begun(fleet: Fleet, path: str) -> bool:
    """503 when the element cannot be reached so soon after the start: an operator repeats the request."""
    answer = fleet.call("POST", "admin-1", path, json={})
    assert answer.status_code in (202, 503), answer.text
    return answer.status_code == 202


def _wait_for_every_lease(before: Uploads) -> None:
    """Waits until catalog and disks agree and two uncommitted uploads are undone: then all leases are over."""
    fleet = before.fleet
    eventually(lambda: _metric(fleet, "catalog_unreconciled_elements") == 0, WAIT_S)
    later = Uploads(fleet, before.bucket)
    # A database made anew has new signing keys, which an element asks for at most every ten seconds.
    eventually(lambda: fleet.call("GET", "se-02", "/api/element", later.token).status_code == 200, WAIT_S)
    begun, unknown = later.new("se-02"), later.new("se-02")
    later.begin(begun)
    for file_id in (begun, unknown):
        later.put(file_id)
    eventually(lambda: not any(later.exists(file_id) for file_id in (begun, unknown)), WAIT_S)
    eventually(lambda: not fleet.call("GET", "admin-1", "/api/sagas?state=begun").json()["items"], WAIT_S)
    eventually(lambda: not fleet.call("GET", "admin-1", "/api/sagas?state=compensating").json()["items"], WAIT_S)


def _require_kept(fleet: Fleet, uploads: Uploads, acknowledged: list[str]) -> None:
    gone = [file_id for file_id in acknowledged if not uploads.exists(file_id)]
    assert not gone, f"{len(gone)} of {len(acknowledged)} acknowledged files are gone"
    with httpx.Client(base_url=fleet.url("query"), timeout=30) as query:
        query.headers["authorization"] = f"Bearer {fleet.token()}"
        for file_id in acknowledged:
            answer = query.get(f"/api/files/{file_id}/content")
            assert answer.status_code == 200, answer.text
            assert answer.content == uploads.contents[file_id]
        eventually(lambda: "x-artstore-degraded" not in query.get("/api/files").headers, WAIT_S)
        listed = query.get("/api/files", params={"limit": "1000"}).json()["items"]
    assert {one["file_id"] for one in listed} == set(acknowledged)
    for one in listed:
        assert one["checksum"] == f"sha256:{hashlib.sha256(uploads.contents[one['file_id']]).hexdigest()}"


def _require_told(fleet: Fleet, drill: Drill) -> None:
    """The registry goes on above what subscribers had, modes stay, and the audit log says what happened."""
    elements = fleet.call("GET", "admin-1", "/api/storage-elements").json()
    assert {one["id"]: one["mode"] for one in elements["items"]} == ELEMENTS
    generation = elements["generation"]
    assert generation > 1
    events = fleet.call("GET", "admin-1", "/api/audit?action=catalog:generation").json()["items"]
    assert generation in [event["metadata"]["generation"] for event in events]
    path = f"/api/storage-elements/{next(iter(ELEMENTS))}"
    assert fleet.call("PATCH", "admin-1", path, json={"priority": 7}).status_code == 200

    def published() -> bool:
        check = httpx.get(f"{fleet.url('query')}/health/ready", timeout=30).json()["checks"]["discovery"]
        kept = json.loads(_redis_get(fleet, "storage-elements:config:snapshot") or "{}")
        return kept.get("generation") == generation and "3 elements" in check["detail"]

    eventually(published)


def _metric(fleet: Fleet, name: str) -> float:
    lines = httpx.get(f"{fleet.url('admin-1')}/metrics", timeout=30).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def _redis_get(fleet: Fleet, key: str) -> str | None:
    with redis.Redis(host="127.0.0.1", port=fleet.valkey.port, decode_responses=True) as client:
        found = client.get(key)
        return None if found is None else str(found)
