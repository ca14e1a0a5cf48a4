"""Costs of an upload and a cold read with more and more stored files: `python -m bench.growth [FOLDER] [FILES …]`.

The files are written to the disk of one element in the stored format, not uploaded; a rebuild then makes their catalog rows.
After a new start of the system it prints how long that element took to become ready, the CPU of an upload and of a cold read,
and the memory of all processes. Everything is removed at the end.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from artstore.clock import uuid7
from artstore.contracts.files import Attributes, encode
from artstore_cli.bench.load import NAME, Outcome, Requests, run
from artstore_cli.bench.sides import ArtStore, call, running_artstore

ROOT = Path(__file__).resolve().parents[2]
SIZES = (1_000, 100_000)
ELEMENT, ELEMENT_OFFSET = "se-02", 11
CONTENT_BYTES = 100
UPLOAD_BYTES = 4096
CONCURRENCY = 16
SECONDS = 8
COLD_READS = 900
"""Not more than the smallest store holds."""
NOW = "2026-01-01T00:00:00.000000Z"
REBUILD_POLL_S = 0.2
IDLE_S = 5


def store(root: Path, number: int) -> list[str]:
    """Adds files to a stopped element's root, one folder after the other. Returns their ids."""
    content = os.urandom(CONTENT_BYTES)
    checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
    file_ids = sorted((str(uuid7()) for _ in range(number)), key=folder_of)
    for file_id in file_ids:
        attributes = Attributes(
            file_id=file_id,
            revision=1,
            filename=f"{file_id}.bin",
            content_type="application/octet-stream",
            size_bytes=CONTENT_BYTES,
            checksum=checksum,
            storage_element_id=ELEMENT,
            created_at=NOW,
            updated_at=NOW,
            owner="growth",
            tags=[],
            metadata={},
            retention="permanent",
            expires_at=None,
        )
        path = f"{root}/files/{folder_of(file_id)}/{file_id}"
        write(path, content)
        write(f"{path}.attr.json", encode(attributes))
    return file_ids


def folder_of(file_id: str) -> str:
    return f"{file_id[-4:-2]}/{file_id[-2:]}"


def write(path: str, content: bytes) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path))
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    os.write(fd, content)
    os.close(fd)


def rebuild(system: ArtStore) -> float:
    """Files per second of a rebuild of the element."""
    token = system.administrator_token()
    port = system.port_base + ELEMENT_OFFSET
    began_s = time.monotonic()
    call(system.port_base, "POST", f"/api/storage-elements/{ELEMENT}/rebuild", body={}, token=token)
    while True:
        state = call(port, "GET", "/api/element", token=token)["upkeep"]["rebuild"]
        if state is not None and state["finished_at"] is not None:
            if state["phase"] != "done":
                raise RuntimeError(f"the rebuild ended: {state}")
            return float(state["files"] / (time.monotonic() - began_s))
        time.sleep(REBUILD_POLL_S)


def measured(system: ArtStore, load: Requests) -> tuple[Outcome, float]:
    """The clients' outcome, and the CPU of all processes for one request in milliseconds."""
    before_s = system.cpu_s()
    seen = run(load, CONCURRENCY, SECONDS)
    return seen, (system.cpu_s() - before_s) * 1e3 / max(1, seen.requests)


def ready_after_s(log: Path) -> float:
    """From the element's start to /health/ready, as the launcher printed it."""
    return float(re.findall(rf"^ready +{ELEMENT} +([\d.]+) s", log.read_text(), re.MULTILINE)[-1])


def grow(folder: Path, sizes: Sequence[int]) -> None:
    stored: list[str] = []
    for size in sizes:
        with running_artstore(ROOT, folder) as system:  # makes the roots at the first start
            root = system.folder.elements / ELEMENT
        began_s = time.monotonic()
        stored += store(root, size - len(stored))
        wrote_s = time.monotonic() - began_s
        with running_artstore(ROOT, folder) as system:
            rebuilt = rebuild(system)
        with running_artstore(ROOT, folder) as system:
            ready_s = ready_after_s(folder / "up.log")
            time.sleep(IDLE_S)
            memory = system.memory_mb()
            report(folder, system, stored)
            after = system.memory_mb()
        sys.stdout.write(
            f"{size} files: ready after {ready_s:.1f} s, rebuilt at {rebuilt:,.0f} files/s (written in {wrote_s:.0f} s), "
            f"services {memory['services']:.0f} → {after['services']:.0f} MB, PostgreSQL {after['postgresql']:.0f} MB\n"
        )


def report(folder: Path, system: ArtStore, stored: Sequence[str]) -> None:
    headers = {"Authorization": f"Bearer {system.token()}"}
    paths = folder / "paths"
    paths.write_text("\n".join(f"/api/files/{one}/content" for one in random.sample(stored, COLD_READS)))
    upload = Requests(
        "POST",
        system.ingester_port,
        f"/api/files/upload?filename={NAME}",
        {**headers, "Content-Type": "application/octet-stream"},
        body_bytes=UPLOAD_BYTES,
    )
    loads = {"upload": upload, "cold read": Requests("GET", system.query_port, headers=headers, paths=str(paths))}
    for what, load in loads.items():
        seen, cpu_ms = measured(system, load)
        sys.stdout.write(
            f"    {what}: {cpu_ms:.2f} ms of CPU, {seen.rate:.0f}/s, p50 {seen.p50_ms:.1f} ms, {seen.errors} errors\n"
        )


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    above = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.gettempdir())
    folder = Path(tempfile.mkdtemp(prefix="artstore-growth-", dir=above))
    folder.chmod(0o711)
    try:
        grow(folder, [int(size) for size in sys.argv[2:]] or SIZES)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
