"""The grown system of docs/scaling.md: two admins, three ingesters, three queries, elements on disk and in S3, a Valkey Cluster
with replicas, and PostgreSQL with a synchronous standby, behind the gateway. It loses a part of each kind under load."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from support.buckets import Bucket, running_bucket
from support.fleet import eventually, repeating
from support.layout import LARGE
from support.restores import rewind
from support.standby import Pair, running_pair, wait_for_standby

from artstore.redis_cluster import HOME
from artstore.testing.services import temporary_folder
from artstore.testing.valkey_cluster import ValkeyCluster, running_cluster

IN_S3, ON_DISK = "se-04", "se-02"
"""Two elements of the same mode."""
UPLOADERS = 4
WAIT_S = 180


@dataclass
class Grown:
    pair: Pair
    cluster: ValkeyCluster
    bucket: Bucket
    gateway: str
    kept: dict[str, bytes] = field(default_factory=dict)
    elements: dict[str, str] = field(default_factory=dict)

    def call(
        self, method: str, path: str, *, content_type: str = "application/octet-stream", **options: Any
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.pair.token}", "content-type": content_type}
        return httpx.request(method, self.gateway + path, headers=headers, timeout=60, **options)

    def upload(self) -> bool:
        content = os.urandom(200)
        try:
            answer = self.call("POST", "/api/files/upload", params={"filename": "a.bin"}, content=content)
        except httpx.TransportError:
            return False
        if answer.status_code != 201:
            return False
        self.kept[answer.json()["file_id"]] = content
        self.elements[answer.json()["file_id"]] = answer.json()["storage_element_id"]
        return True

    def uploading(self) -> AbstractContextManager[None]:
        return repeating(self.upload, UPLOADERS)

    def goes_on(self) -> None:
        """Uploads are acknowledged again."""
        before = len(self.kept)
        eventually(lambda: len(self.kept) > before + 20, WAIT_S)

    def require_kept(self) -> None:
        for file_id, content in self.kept.items():
            answer = self.call("GET", f"/api/files/{file_id}/content")
            assert (answer.status_code, answer.content) == (200, content), answer.text


@pytest.fixture(scope="module")
def grown() -> Iterator[Grown]:
    with (
        temporary_folder("artstore-grown-") as folder,
        running_cluster(folder, replicas=True) as cluster,
        running_bucket() as bucket,
        running_pair(
            LARGE,
            settings={"ELEMENT_ANNOUNCE_EVERY_S": "2"},
            own_settings={IN_S3: bucket.settings(IN_S3)},
            cluster=cluster,
        ) as pair,
    ):
        yield Grown(pair, cluster, bucket, pair.fleet.start_gateway())


def test_the_story_of_a_file_through_the_gateway(grown: Grown) -> None:
    for _ in range(12):
        assert grown.upload()
    record = grown.call("POST", "/api/files/upload", params={"filename": "b.bin", "retention": "temporary"}).json()
    path = f"/api/files/{record['file_id']}"
    for revision in range(2, 12):
        tags = {"tags": [str(revision)]}
        changed = grown.call("PATCH", path, json=tags, content_type="application/json")
        assert changed.status_code == 200, changed.text
        assert {grown.call("GET", path).json()["tags"][0] for _ in range(6)} == {str(revision)}  # of three queries
    assert grown.call("DELETE", path).status_code == 204
    assert {grown.call("GET", path).status_code for _ in range(6)} == {404}
    grown.require_kept()


def test_permanent_files_in_s3_are_read_like_others(grown: Grown) -> None:
    """The element on disk is closed for new files, so the next ones go to S3."""
    fleet = grown.pair.fleet
    fleet.stop(ON_DISK)
    with grown.uploading():
        eventually(lambda: IN_S3 in grown.elements.values(), WAIT_S)
    fleet.start(ON_DISK)
    fleet.ready(ON_DISK)
    in_s3 = [file_id for file_id, element in grown.elements.items() if element == IN_S3]
    assert all(grown.bucket.holds(IN_S3, file_id) for file_id in in_s3)
    grown.require_kept()


def test_it_loses_one_part_of_each_kind_under_load_and_no_acknowledged_file(grown: Grown) -> None:
    fleet, pair = grown.pair.fleet, grown.pair
    with grown.uploading():
        grown.goes_on()
        victim = grown.cluster.master_of(HOME)
        victim.kill()
        grown.goes_on()
        for name in ("admin-2", "ingester-2", "query-3"):
            fleet.stop(name, signal.SIGKILL)
        grown.goes_on()
        pair.primary.process.kill()
        pair.primary.process.wait()
        pair.promote()
        grown.goes_on()
        for name in ("admin-2", "ingester-2", "query-3"):
            fleet.start(name)
        victim.start()
        rewind(pair.standby_data, pair.primary.port)
        pair.start_standby()
        wait_for_standby(pair.primary.port)
        grown.goes_on()
    fleet.ready(*LARGE)
    print(f"{len(grown.kept)} acknowledged files, {sum(element == IN_S3 for element in grown.elements.values())} in S3")
    grown.require_kept()
