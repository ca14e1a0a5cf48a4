"""Checks of what is stored: elements and their disks, damage, pending work, catalog, audit log."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from .finding import Answer, fail, good, unseen, warn
from .system import Examined

ALMOST_FULL = 0.1
"""A share of an element's space: less free is a warning."""
LEAST_FREE_BYTES = 1 << 30
"""Free bytes on the disk with PostgreSQL and the logs: less is a warning."""
MANY_SEGMENTS = 12
"""Segments of the write-ahead log of an element, which has at most 16."""
SAMPLE_FILES = 20
"""Files of each element that are compared with the catalog."""


def check_elements(system: Examined) -> Iterator[Answer]:
    for element in system.elements:
        name = element["id"]
        if element["status"] != "online":
            yield fail(
                f"{name} is {element['status']}: {element['away_reason'] or 'no report'}", "start it, mount its disk"
            )
        if element["read_only_reason"]:
            yield fail(f"{name} has become read-only: {element['read_only_reason']}", "docs/operations/elements.md")
    modes = {element["mode"] for element in system.elements if element["status"] == "online"}
    for mode, kind in (("rw", "permanent"), ("edit", "temporary")):
        if mode not in modes:
            yield fail(f"no element in mode {mode} is online: {kind} files cannot be stored", "add or start one")
    known = ", ".join(f"{element['id']} {element['mode']}" for element in system.elements)
    yield good(f"{len(system.elements)} elements: {known}")


def check_roots(system: Examined) -> Iterator[Answer]:
    """Each element serves the root that the registry knows, and no two elements the same one."""
    for element in system.elements:
        name = element["id"]
        if element["refused"]:
            yield fail(
                f"{name} reports from a refused root", "mount its disk or accept-root: docs/operations/elements.md"
            )
        if not element["root_id"]:
            yield warn(f"{name} has never reported a root", "start it, or remove it from the registry")
        elif system.folder is not None:
            identity = system.folder.elements / name / "element.json"
            if identity.exists() and json.loads(identity.read_text())["root_id"] != element["root_id"]:
                yield fail(f"{identity.parent} is another root than the registry knows", "docs/operations/elements.md")
    counted = Counter(element["root_id"] for element in system.elements if element["root_id"])
    for root_id, count in counted.items():
        if count > 1:
            yield fail(f"{count} elements report the root {root_id}", "one is a copy: stop it")
    yield good(f"{len(counted)} roots, each as the registry knows it")


def check_space(system: Examined) -> Iterator[Answer]:
    """The space that uploads may use: the reserve of an element's disk is not part of it."""
    for element in system.elements:
        capacity = element["capacity"]
        if not capacity or not capacity["total_bytes"] or element["mode"] not in ("edit", "rw"):
            continue
        share = capacity["available_bytes"] / capacity["total_bytes"]
        if not capacity["available_bytes"]:
            yield fail(f"{element['id']} has nothing left but its reserve", "add an element, then set this one to ro")
        elif share < ALMOST_FULL:
            yield warn(f"{element['id']} has {share:.0%} of its space left", "add an element, then set this one to ro")
    if system.folder is not None and (free := shutil.disk_usage(system.folder.path).free) < LEAST_FREE_BYTES:
        yield fail(f"{free >> 20} MiB are free for PostgreSQL and the logs in {system.folder.path}", "free some space")
    yield good("every element has space beyond its reserve")


def check_quarantine(system: Examined) -> Iterator[Answer]:
    if not system.services and system.folder is None:
        yield unseen("damage and quarantine")
        return
    for service, labels, value in system.samples("upkeep_findings_total"):
        if value and labels["problem"] not in ("foreign",):
            yield fail(
                f"{service} found {value:.0f} files: {labels['problem']}",
                "docs/operations/alerts-data.md, FilesDamaged; then restore each: docs/operations/restore-a-file.md",
            )
    if system.total("element_failed"):
        yield fail("a disk has failed", "replace it: docs/operations/replace-an-element.md")
    for folder in sorted(system.folder.elements.glob("*/quarantine")) if system.folder is not None else ():
        if held := len({one.name.removesuffix(".attr.json") for one in folder.iterdir()}):
            yield warn(
                f"{held} files are in {folder}",
                "restore each (docs/operations/restore-a-file.md), then move it out of there",
            )
    yield good("no damaged files are known")


def check_pending(system: Examined) -> Iterator[Answer]:
    hanging = system.get("/api/sagas", hanging="true", limit=1000)["items"]
    if hanging:
        yield warn(f"{len(hanging)} sagas wait for an element", "artstore sagas list: their last errors name it")
    for metric, most, text in (
        ("element_owed_files", 100, "changes wait for S3 or PostgreSQL"),
        ("element_unsettled_files", 100, "changes wait for PostgreSQL"),
        ("catalog_unreconciled_elements", 0, "elements still compare the catalog with their disks"),
        ("audit_events_waiting", 100, "audit events wait for PostgreSQL"),
    ):
        waiting = system.total(metric)
        if waiting > most:
            yield warn(f"{waiting:.0f} {text}", "it settles by itself once the dependency is back")
    for service, _, segments in system.samples("wal_used_segments"):
        if segments > MANY_SEGMENTS:
            yield warn(
                f"the log of {service} has {segments:.0f} segments", "its disk is slow, or a sync hangs: its log"
            )
    lag_s = max((value for _, _, value in system.samples("search_index_lag_seconds")), default=0)
    if lag_s > 60:
        yield warn(f"the index of words is {lag_s:.0f} s behind", "it catches up; see alert SearchIndexLate")
    yield good(f"{system.total('wal_open_intents'):.0f} open intents, nothing hangs")


def check_catalog(system: Examined) -> Iterator[Answer]:
    """Files of the local elements, chosen at random, against what the one address says of them."""
    if system.folder is None:
        yield warn("the elements' disks are not on this machine", "artstore rebuild ELEMENT compares all")
        return
    compared = 0
    for element in system.elements:
        root = system.folder.elements / element["id"] / "files"
        for path in _some_files(root):
            kept = json.loads(path.read_bytes())
            answer = system.http.get(f"/api/files/{kept['file_id']}")
            compared += 1
            if answer.status_code != 200:
                yield fail(
                    f"{kept['file_id']} is on {element['id']} and answered {answer.status_code}", "rebuild the element"
                )
            elif answer.json()["revision"] < kept["revision"] or answer.json()["checksum"] != kept["checksum"]:
                yield fail(f"the catalog has another version of {kept['file_id']}", "rebuild the element")
    yield good(f"{compared} files on disk are as the catalog says")


def check_audit(system: Examined) -> Iterator[Answer]:
    verified = system.get("/api/audit/verify")
    if not verified["ok"]:
        yield fail(f"the audit log is damaged: {verified['findings'][:1]}", "docs/operations/audit-log.md")
    dropped = system.total("audit_events_dropped_total")
    if dropped:
        yield fail(f"{dropped:.0f} audit events were lost", "AUDIT_FOLDER of that service was full or gone")
    yield good(f"{verified['events']} events, {len(verified['chains'])} chains")


def _some_files(root: Path) -> list[Path]:
    """Paths of attr.json from a few folders, so that a million files need not be listed."""
    found: list[Path] = []
    folders = [path for path in root.glob("*") if path.is_dir()]
    random.shuffle(folders)
    deadline_s = time.monotonic() + 2
    for folder in folders:
        found += folder.glob("*/*.attr.json")
        if len(found) >= SAMPLE_FILES or time.monotonic() > deadline_s:
            break
    return random.sample(found, min(SAMPLE_FILES, len(found)))
