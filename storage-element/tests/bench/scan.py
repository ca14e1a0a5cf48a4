"""How fast a rebuild reads a disk: python -m tests.bench.scan FOLDER [FILES], from the module's folder.

Makes the files (once; kept for the next run), reads them warm: survey, attr.json, decode, as a rebuild does it.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

import msgspec

from app.store.attributes import find_in, first_revision
from app.store.backends.local import LocalBackend
from app.store.paths import FAN_OUT, Paths
from app.upkeep.reconcile import SizeOnly
from artstore.clock import uuid7
from artstore.contracts.files import encode
from tests.store.support import new_file

FILES = 200_000
NOW = "2026-01-01T00:00:00.000000Z"


def make(root: Path, number: int) -> None:
    paths, content = Paths(str(root)), os.urandom(512)
    sha256 = hashlib.sha256(content).hexdigest()
    for _ in range(number):
        file_id = str(uuid7())
        os.makedirs(paths.folder(file_id), exist_ok=True)
        attributes = first_revision(
            file_id, new_file(), size_bytes=len(content), sha256=sha256, element_id="se-01", now=NOW
        )
        Path(paths.data(file_id)).write_bytes(content)
        Path(paths.attributes(file_id)).write_bytes(encode(attributes))


def scan(backend: LocalBackend, *, known: bool) -> int:
    """`known`: the catalog has the same bytes, so that only the size is decoded."""
    files = 0
    for first in FAN_OUT:
        seen = [one for one in backend.survey(first) if one.has_attributes]
        for one, encoded in zip(seen, backend.find_many([one.file_id for one in seen]), strict=True):
            assert encoded is not None
            if known:
                assert msgspec.json.decode(encoded, type=SizeOnly).size_bytes == one.data_bytes
            else:
                attributes = find_in(encoded, one.file_id)
                assert attributes is not None
                assert attributes.size_bytes == one.data_bytes
            files += 1
    return files


def main() -> None:
    root = Path(sys.argv[1])
    backend = LocalBackend(Paths(str(root)))
    number = int(sys.argv[2]) if len(sys.argv) > 2 else FILES
    there = sum(len(backend.survey(first)) for first in FAN_OUT)
    make(root, max(0, number - there))
    for known in (False, True, False, True):
        began_s, cpu_s = time.perf_counter(), time.process_time()
        files = scan(backend, known=known)
        took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
        what = "in line with the catalog" if known else "all decoded"
        sys.stdout.write(f"{files} files, {what}: {files / took_s:,.0f}/s, {files / cpu_s:,.0f} per second of CPU\n")


if __name__ == "__main__":
    main()
