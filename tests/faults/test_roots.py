"""One identity, one root: a copied element beside its original, and disks that are not mounted, go away or are the wrong ones.

One fleet: se-01 (a local disk) and se-03 (S3) take temporary files, se-02 and se-04 permanent ones.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from support.buckets import Bucket, running_bucket
from support.fleet import Fleet, eventually, running_fleet

from artstore.clock import uuid7
from artstore.contracts.files import NewFile
from artstore.contracts.storage import NEW_FILE_HEADER, SAGA_HEADER, encode_new_file

LOCAL, IN_S3, STRUCK, OTHER = "se-01", "se-03", "se-02", "se-04"
NAMES = ("admin-1", "admin-2", LOCAL, STRUCK, IN_S3, OTHER, "ingester", "query")
PREFERRED, OTHERS = 1, 500
TEMPORARY = {"retention": "temporary", "ttl_days": "3"}
NEW = NewFile(
    filename="a.bin",
    content_type="application/octet-stream",
    owner="ingester",
    tags=[],
    metadata={},
    retention="permanent",
    expires_at=None,
)


@dataclass
class Site:
    fleet: Fleet
    bucket: Bucket
    token: str
    stored: dict[str, bytes] = field(default_factory=dict)
    """The contents of all acknowledged files."""

    def prefer(self, element: str) -> None:
        """New files of its kind go there while it can take them."""
        for name in (LOCAL, STRUCK, IN_S3, OTHER):
            priority = PREFERRED if name == element else OTHERS
            path = f"/api/storage-elements/{name}"
            answer = self.fleet.call("PATCH", "admin-1", path, self.token, json={"priority": priority})
            assert answer.status_code == 200, answer.text

    def upload(self, **params: str) -> dict[str, Any]:
        content = os.urandom(300)
        answer = self.fleet.upload(self.token, content, **params)
        assert answer.status_code == 201, answer.text
        record: dict[str, Any] = answer.json()
        self.stored[record["file_id"]] = content
        return record

    def upload_to(self, element: str, **params: str) -> str:
        """The id of the first file that goes there: the ingester learns priority and presence a moment after admin."""

        def try_once() -> str:
            record = self.upload(**params)
            return str(record["file_id"]) if record["storage_element_id"] == element else ""

        return eventually(try_once)

    def read(self, file_id: str) -> httpx.Response:
        return self.fleet.call("GET", "query", f"/api/files/{file_id}/content", self.token)

    def shown(self, element: str) -> dict[str, Any]:
        path = f"/api/storage-elements/{element}"
        found: dict[str, Any] = self.fleet.call("GET", "admin-1", path, self.token).json()
        return found

    def require_all_readable(self) -> None:
        for file_id, content in self.stored.items():
            answer = self.read(file_id)
            assert answer.status_code == 200, f"{file_id}: {answer.text}"
            assert answer.content == content

    def rows(self) -> int:
        """The number of acknowledged files in PostgreSQL itself."""

        async def count() -> int:
            connection = await asyncpg.connect(
                host="127.0.0.1", port=self.fleet.postgres.port, user="postgres", database=self.fleet.database
            )
            try:
                statement = "SELECT count(*) FROM files WHERE file_id::text = ANY($1)"
                return int(await connection.fetchval(statement, list(self.stored)))
            finally:
                await connection.close()

        return asyncio.run(count())


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with (
        running_bucket() as bucket,
        running_fleet(NAMES, {"ELEMENT_ANNOUNCE_EVERY_S": "2"}, own_settings={IN_S3: bucket.settings(IN_S3)}) as fleet,
    ):
        yield Site(fleet, bucket, fleet.token())


def readiness(fleet: Fleet, name: str) -> tuple[int, str]:
    """Status of `/health/ready`, and what its check `root` says. (0, "") while nothing listens."""
    try:
        answer = httpx.get(f"{fleet.url(name)}/health/ready", timeout=30)
    except httpx.TransportError:
        return 0, ""
    return answer.status_code, str(answer.json()["checks"].get("root", {}).get("detail", ""))


def is_refused(fleet: Fleet, name: str) -> bool:
    status, root = readiness(fleet, name)
    return status == 503 and "fenced" in root


# Twins --------------------------------------------------------------------------------------------------------------


@contextmanager
def no_twin_left(site: Site, twin: str) -> Iterator[None]:
    try:
        yield
    finally:
        if twin in site.fleet.processes:
            site.fleet.stop(twin)


def start_twin(site: Site, element: str, twin: str) -> None:
    """A process with the element's identity and account on the copy of its folder, at a URL of its own."""
    settings = site.bucket.settings(element) if element == IN_S3 else {}
    own = {"STORAGE_ELEMENT_ID": element, "STORAGE_MODE": "edit", "STORAGE_ROOT": str(site.fleet.folder / twin)}
    site.fleet.start(twin, {**settings, **own}, account=element)


def put_at(site: Site, name: str) -> tuple[str, int]:
    """An upload that an ingester with an old registry would send there: its id, and the status (0: no answer)."""
    file_id = str(uuid7())
    service = site.fleet.token(site.fleet.credentials("ingester"))
    headers = {SAGA_HEADER: str(uuid7()), NEW_FILE_HEADER: encode_new_file(NEW), "content-type": NEW.content_type}
    try:
        path = f"/api/files/{file_id}"
        return file_id, site.fleet.call("PUT", name, path, service, content=b"lost", headers=headers).status_code
    except httpx.TransportError:
        return file_id, 0


def files_below(root: Path) -> dict[str, int]:
    """Every file and its size."""
    return {str(path.relative_to(root)): path.stat().st_size for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("element", [LOCAL, IN_S3])
def test_a_copy_started_beside_its_original_is_refused_and_stores_nothing(site: Site, element: str) -> None:
    fleet, twin = site.fleet, f"{element}-twin"
    site.prefer(element)
    known = [site.upload_to(element, **TEMPORARY) for _ in range(3)]
    shutil.copytree(fleet.folder / element, fleet.folder / twin)
    before = files_below(fleet.folder / twin / "files") if element == LOCAL else {}
    tried: list[tuple[str, int]] = []

    def stays_refused() -> bool:
        tried.append(put_at(site, twin))
        return is_refused(fleet, twin)

    with no_twin_left(site, twin):
        start_twin(site, element, twin)
        eventually(lambda: is_refused(fleet, twin))
        tried.append(put_at(site, twin))
        site.upload_to(element, **TEMPORARY)
        site.require_all_readable()
        shown = site.shown(element)
        assert (shown["status"], shown["url"]) == ("online", fleet.front(element))
        assert (shown["refused"]["code"], shown["refused"]["url"]) == ("fenced", fleet.front(twin))
        service = fleet.token(fleet.credentials("query"))
        assert fleet.call("GET", twin, f"/api/files/{known[0]}/content", service).status_code == 503
        fleet.stop(twin)
        # Nor by starting again while the original is down, which then takes its place again
        fleet.stop(element)
        start_twin(site, element, twin)
        eventually(stays_refused)
        fleet.start(element)
        fleet.ready(element)
        fleet.stop(twin)
    assert {status for _, status in tried} <= {0, 503}
    if element == LOCAL:
        assert files_below(fleet.folder / twin / "files") == before
    else:
        assert not any(site.bucket.holds(element, file_id) for file_id, _ in tried)
    site.upload_to(element, **TEMPORARY)
    site.require_all_readable()
    assert site.rows() == len(site.stored)


@pytest.mark.parametrize("element", [LOCAL, IN_S3])
def test_a_copy_that_took_over_keeps_the_returning_original_out(site: Site, element: str) -> None:
    """A move to another host: the original is down when the copy starts, and comes back later."""
    fleet, twin = site.fleet, f"{element}-moved"
    site.prefer(element)
    site.upload_to(element, **TEMPORARY)
    fleet.stop(element)
    shutil.copytree(fleet.folder / element, fleet.folder / twin)
    before = files_below(fleet.folder / element / "files") if element == LOCAL else {}
    start_twin(site, element, twin)
    fleet.ready(twin)
    site.upload_to(element, **TEMPORARY)
    fleet.start(element)
    eventually(lambda: is_refused(fleet, element))
    assert put_at(site, element)[1] == 503
    site.upload_to(element, **TEMPORARY)
    site.require_all_readable()
    assert site.shown(element)["url"] == fleet.front(twin)
    if element == LOCAL:
        assert files_below(fleet.folder / element / "files") == before
    assert site.rows() == len(site.stored)


# Disks --------------------------------------------------------------------------------------------------------------


def go_away(site: Site, root: Path) -> None:
    """Under the running element: the mount point is empty."""
    root.rename(root.with_suffix(".away"))
    root.mkdir()


def start_empty(site: Site, root: Path) -> None:
    site.fleet.stop(STRUCK)
    go_away(site, root)
    site.fleet.start(STRUCK)


def start_foreign(site: Site, root: Path) -> None:
    """The disk of another element of this kind, as if it had always been this one's."""
    site.fleet.stop(STRUCK)
    root.rename(root.with_suffix(".away"))
    shutil.copytree(site.fleet.folder / OTHER, root)
    kept = json.loads((root / "element.json").read_text())
    (root / "element.json").write_text(json.dumps({**kept, "element_id": STRUCK}))
    site.fleet.start(STRUCK)


STRIKES: dict[str, Callable[[Site, Path], None]] = {
    "the disk goes away": go_away,
    "not mounted at the start": start_empty,
    "another disk at the start": start_foreign,
}


@pytest.mark.parametrize("strike", STRIKES)
def test_without_its_disk_an_element_serves_nothing_and_is_as_before_when_it_is_back(site: Site, strike: str) -> None:
    fleet, root = site.fleet, site.fleet.folder / STRUCK
    site.prefer(STRUCK)
    files = [site.upload_to(STRUCK) for _ in range(3)]
    STRIKES[strike](site, root)
    eventually(lambda: readiness(fleet, STRUCK)[0] == 503 and site.shown(STRUCK)["status"] == "away")
    assert site.shown(STRUCK)["away_reason"]
    below = files_below(root)
    if strike != "another disk at the start":
        assert below == {}
    site.upload_to(OTHER)
    fleet.valkey.flush()
    for file_id in files:
        answers = [site.read(file_id), fleet.call("GET", "query", f"/api/files/{file_id}", site.token)]
        assert answers[0].status_code == 503
        assert int(answers[0].headers["retry-after"]) <= 5
        assert answers[1].status_code in (200, 503), "never 404"
        assert put_at(site, STRUCK)[1] in (0, 503)
    listed = fleet.call("GET", "query", "/api/files?limit=1000", site.token).json()["items"]
    assert {one["file_id"] for one in listed} >= set(site.stored)
    assert site.rows() == len(site.stored)
    assert files_below(root) == below
    bring_back(site, root, strike)
    site.require_all_readable()
    site.upload_to(STRUCK)
    assert site.rows() == len(site.stored)


def bring_back(site: Site, root: Path, strike: str) -> None:
    """Without a restart where nothing was mounted; another disk is only given back while the element is down."""
    restarted = strike == "another disk at the start"
    if restarted:
        site.fleet.stop(STRUCK)
    shutil.rmtree(root)
    root.with_suffix(".away").rename(root)
    if restarted:
        site.fleet.start(STRUCK)
    site.fleet.ready(STRUCK)
    eventually(partial(is_online, site))


def is_online(site: Site) -> bool:
    return bool(site.shown(STRUCK)["status"] == "online")
