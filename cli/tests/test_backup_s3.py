"""The files of an element in S3, on a real SeaweedFS: copied, linked, and put back without replacing newer ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from artstore.testing.services import S3Server, start_s3, temporary_folder
from artstore_cli.backup.backup import Manifest
from artstore_cli.backup.containers import ROOT, BackupSettings, ContainerSystem
from artstore_cli.backup.element import ElementCopy, copy_element
from artstore_cli.backup.restore import Restore
from artstore_cli.backup.s3_files import Binding, S3Access, S3Files
from artstore_cli.errors import CommandError

from .test_backup import AT, put

ELEMENT = "se-03"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with temporary_folder("artstore-s3-") as folder:
        started = start_s3(folder)
        try:
            yield started
        finally:
            started.stop()


@dataclass
class Bucket:
    """One test's own bucket, and the root of the element that keeps its files there."""

    store: S3Store
    files: S3Files
    access: S3Access
    name: str
    root: Path
    folder: Path

    def write(self, path: Path) -> None:
        """The objects that `put` made below the folder."""
        for one in (path, path.with_name(f"{path.name}.attr.json")):
            obstore.put(self.store, str(one), (self.folder / one).read_bytes())

    def add(self, content: bytes, file_id: str = "", revision: int = 1) -> Path:
        path = put(self.folder, content, file_id, revision)
        self.write(path)
        return path

    def read(self, path: Path) -> bytes:
        return bytes(obstore.get(self.store, str(path)).bytes())

    def back_up(self, target: Path, before: Path | None = None) -> ElementCopy:
        self.files.require_owner(ELEMENT)
        return copy_element(self.root, self.files, target / "elements" / ELEMENT, before)

    def restore(self, backup: Path) -> list[str]:
        said: list[str] = []
        settings = BackupSettings.model_validate(
            {
                "database_url": "postgresql+asyncpg://a:b@c/d",
                "s3_endpoint_url": self.access.endpoint_url,
                "s3_access_key_id": self.access.access_key_id,
                "s3_secret_access_key": self.access.secret_access_key,
            }
        )
        manifest = Manifest(
            began_at=AT,
            ended_at=AT,
            dump_sha256="",
            dump_bytes=0,
            elements=[ElementCopy(ELEMENT)],
            has_keys=False,
            not_included=[],
        )
        Restore(ContainerSystem(settings, self.root.parent.parent), backup, manifest, said.append).run([ELEMENT], None)
        return said


@contextmanager
def bucket_of(server: S3Server, folder: Path, name: str) -> Iterator[Bucket]:
    root = folder / "volumes" / ELEMENT / ROOT
    root.mkdir(parents=True)
    binding = {"bucket": name, "prefix": ELEMENT, "root_id": "r1", "schema_version": 1}
    (root / "element.json").write_text("{}")
    (root / "s3.json").write_text(json.dumps(binding))
    access = S3Access(server.endpoint_url, server.access_key_id, server.secret_access_key)
    files = S3Files(access, Binding(bucket=name, prefix=ELEMENT, root_id="r1"))
    files.make_bucket()
    yield Bucket(files._store, files, access, name, root, folder / ELEMENT)


@pytest.fixture
def bucket(server: S3Server, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bucket]:
    with bucket_of(server, tmp_path, f"b{abs(hash(request.node.name)) % 10**9}") as made:
        obstore.put(made.store, "owner.json", b'{"element_id": "se-03", "root_id": "r1", "schema_version": 1}')
        yield made


def test_what_the_backup_before_has_is_linked_and_comes_back_to_an_emptied_bucket(
    bucket: Bucket, tmp_path: Path
) -> None:
    same, changed, large = bucket.add(b"same"), bucket.add(b"first"), bucket.add(b"x" * (9 << 20))
    obstore.put(bucket.store, "files/3f/a2/stray", b"foreign")
    first, second = tmp_path / "1", tmp_path / "2"
    assert bucket.back_up(first).copied == 3
    bucket.add(b"second", changed.name, revision=2)
    gone = bucket.add(b"gone")
    obstore.delete(bucket.store, f"{gone}.attr.json")
    done = bucket.back_up(second, first / "elements" / ELEMENT)
    assert (done.files, done.copied, done.copied_bytes, done.damaged) == (3, 1, len(b"second"), [])
    held = second / "elements" / ELEMENT
    assert (held / same).samefile(first / "elements" / ELEMENT / same)

    obstore.delete(bucket.store, [meta["path"] for page in obstore.list(bucket.store) for meta in page])
    assert bucket.restore(second)[-1].startswith("se-03: 3 files put")
    assert [bucket.read(path) for path in (same, changed, large)] == [b"same", b"second", b"x" * (9 << 20)]
    assert bucket.restore(second)[-1].startswith("se-03: 0 files put")


def test_newer_files_of_a_partial_bucket_stay_and_missing_bytes_return(bucket: Bucket, tmp_path: Path) -> None:
    newer, torn, kept = bucket.add(b"old"), bucket.add(b"torn"), bucket.add(b"kept")
    bucket.back_up(tmp_path / "1")
    bucket.add(b"newer", newer.name, revision=2)
    obstore.delete(bucket.store, str(torn))
    since = bucket.add(b"since the backup")
    assert bucket.restore(tmp_path / "1")[-1].startswith("se-03: 1 files put")
    assert [bucket.read(path) for path in (newer, torn, kept, since)] == [
        b"newer",
        b"torn",
        b"kept",
        b"since the backup",
    ]


def test_an_emptied_or_foreign_prefix_is_neither_backed_up_nor_overwritten(bucket: Bucket, tmp_path: Path) -> None:
    bucket.add(b"mine")
    bucket.back_up(tmp_path / "1")
    obstore.put(bucket.store, "owner.json", b'{"element_id": "se-09", "root_id": "r9"}')
    with pytest.raises(CommandError, match="se-09"):
        bucket.back_up(tmp_path / "2")
    with pytest.raises(CommandError, match="belongs to the element se-09"):
        bucket.restore(tmp_path / "1")
    obstore.delete(bucket.store, "owner.json")
    with pytest.raises(CommandError, match="was it emptied"):
        bucket.back_up(tmp_path / "2")


def test_a_lost_root_comes_back_with_the_claim_of_its_prefix(bucket: Bucket, tmp_path: Path) -> None:
    bucket.add(b"file")
    bucket.back_up(tmp_path / "1")
    (bucket.root / "s3.json").write_text(
        json.dumps({"bucket": bucket.name, "prefix": ELEMENT, "root_id": "r2", "schema_version": 1})
    )
    obstore.put(bucket.store, "owner.json", b'{"element_id": "se-03", "root_id": "r2"}')
    bucket.restore(tmp_path / "1")
    assert json.loads((bucket.root / "s3.json").read_text())["root_id"] == "r1"
    assert json.loads(bucket.read(Path("owner.json")))["root_id"] == "r1"
    [aside] = bucket.root.parent.glob("replaced-*")
    assert "r2" in (aside / ROOT / "s3.json").read_text()


def test_s3_that_refuses_fails_the_backup_instead_of_naming_files_damaged(bucket: Bucket, tmp_path: Path) -> None:
    bucket.add(b"file")
    wrong = S3Access(bucket.access.endpoint_url, bucket.access.access_key_id, "0" * 40)
    files = S3Files(wrong, Binding(bucket=bucket.name, prefix=ELEMENT, root_id="r1"))
    with pytest.raises(CommandError, match="S3 did not answer as it should"):
        files.require_owner(ELEMENT)
    with pytest.raises(CommandError, match="S3 did not answer as it should"):
        copy_element(bucket.root, files, tmp_path / "1", None)
