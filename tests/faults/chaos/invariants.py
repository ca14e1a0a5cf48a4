"""Checks of the whole system at rest: disks, catalog, every query, audit."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from support.fleet import Fleet
from support.layout import EDIT, kind_of

from .asking import Findings
from .client import Client
from .counting import Counter as SharedCounter
from .counting import check_counters
from .history import State
from .operating import CLOSED, Operator
from .settling import rows

SUFFIX = ".attr.json"
ASK_AT_ONCE = 8


async def check(
    fleet: Fleet,
    clients: Sequence[Client],
    counters: list[SharedCounter],
    operator: Operator,
    token: str,
    findings: Findings,
    now_s: float,
) -> None:
    """Adds whatever is not as it must be."""
    disk = await asyncio.to_thread(_disks, fleet, findings, now_s)
    problems = [
        *_against_histories(disk, clients, {counter.file_id for counter in counters}),
        *check_counters(counters, disk),
        *await _against_catalog(fleet, disk),
        *await _against_queries(fleet, disk, clients, token),
        *await _modes(fleet, operator),
        *await _audit(fleet, clients, token),
    ]
    for problem in problems:
        findings.add(now_s, problem)


def _disks(fleet: Fleet, findings: Findings, now_s: float) -> dict[str, dict[str, Any]]:
    """attr.json of every file by its id. Each parses, and the bytes beside it have its hash; there are no other files."""
    found: dict[str, dict[str, Any]] = {}
    for name in fleet.names:
        if kind_of(name) != "se":
            continue
        root = fleet.folder / name
        for problem in [*_leftovers(root), *_read_files(root, found)]:
            findings.add(now_s, f"{name}: {problem}")
    return found


def _leftovers(root: Path) -> list[str]:
    return [
        f"left: {path}" for folder in ("tmp", "quarantine") for path in (root / folder).glob("**/*") if path.is_file()
    ]


def _read_files(root: Path, found: dict[str, dict[str, Any]]) -> list[str]:
    problems, data = [], set()
    for path in (root / "files").glob("*/*/*"):
        if not path.name.endswith(SUFFIX):
            data.add(path.name)
            continue
        file_id = path.name.removesuffix(SUFFIX)
        try:
            record = json.loads(path.read_bytes())
            content = path.with_name(file_id).read_bytes()
        except (ValueError, OSError) as error:
            problems.append(f"{path.name}: {error}")
            continue
        if (len(content), f"sha256:{hashlib.sha256(content).hexdigest()}") != (
            record["size_bytes"],
            record["checksum"],
        ):
            problems.append(f"{file_id} has other bytes than its attr.json says")
        if file_id in found:
            problems.append(f"{file_id} lies on two elements")
        found[file_id] = record
    owned = {file_id for file_id, record in found.items() if record["storage_element_id"] == root.name}
    return problems + [f"bytes without attributes: {file_id}" for file_id in data - owned]


def _state(record: dict[str, Any] | None) -> State | None:
    if record is None:
        return None
    return State(record["revision"], record["checksum"].removeprefix("sha256:"), record["metadata"]["label"])


def _against_histories(disk: dict[str, dict[str, Any]], clients: Sequence[Client], shared: set[str]) -> list[str]:
    """Every acknowledged change is there; an unacknowledged upload is whole or absent, and there once at most."""
    problems: list[str] = []
    known = {file_id: history for client in clients for file_id, history in client.files.items()}
    problems += [f"never decided: {queued.path}" for client in clients for queued in client.queued]
    for file_id, history in known.items():
        state = _state(disk.get(file_id))
        if state not in history.possible:
            told = "; ".join(history.told)
            problems.append(f"{file_id} is {state}, it must be one of {history.possible}; told: {told}")
    untold = {one.label: one for client in clients for one in client.untold}
    labels: Counter[str] = Counter()
    for file_id in disk.keys() - known.keys() - shared:
        state = _state(disk[file_id])
        assert state is not None
        labels[state.label] += 1
        expected = untold.get(state.label)
        if expected is None or (state.revision, state.sha256) != (1, expected.sha256):
            problems.append(f"{file_id} is {state}: nobody uploaded that")
    return problems + [f"{number} files of one upload, {label}" for label, number in labels.items() if number > 1]


async def _against_catalog(fleet: Fleet, disk: dict[str, dict[str, Any]]) -> list[str]:
    catalog = {
        str(row["file_id"]): (row["state"], row["storage_element_id"], row["revision"])
        for row in await rows(fleet, "SELECT file_id, state, storage_element_id, revision FROM files")
    }
    expected = {
        file_id: ("available", record["storage_element_id"], record["revision"]) for file_id, record in disk.items()
    }
    return [
        f"catalog and disk: {file_id} is {catalog.get(file_id)} there and {expected.get(file_id)} here"
        for file_id in catalog.keys() | expected.keys()
        if catalog.get(file_id) != expected.get(file_id)
    ]


async def _against_queries(
    fleet: Fleet, disk: dict[str, dict[str, Any]], clients: Sequence[Client], token: str
) -> list[str]:
    """Each query instance answers with what is on disk, bytes and all, and has nothing of what was deleted."""
    gone = {file_id for client in clients for file_id in client.files} - disk.keys()
    limit = asyncio.Semaphore(ASK_AT_ONCE)
    headers = {"authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(headers=headers, timeout=30) as client:

        async def ask(name: str, file_id: str) -> str:
            async with limit:
                answer = await client.get(f"{fleet.url(name)}/api/files/{file_id}/content")
                record = await client.get(f"{fleet.url(name)}/api/files/{file_id}")
            expected = disk.get(file_id)
            if expected is None:
                ok = (answer.status_code, record.status_code) == (404, 404)
            else:
                ok = (answer.status_code, record.status_code) == (200, 200) and record.json() == expected
                ok = ok and f"sha256:{hashlib.sha256(answer.content).hexdigest()}" == expected["checksum"]
            said = f"{answer.status_code} {answer.content[:300]!r}, {record.status_code} {record.text[:300]}"
            return "" if ok else f"{name} says of {file_id} {said}; it is {expected}"

        queries = [name for name in fleet.names if kind_of(name) == "query"]
        answers = await asyncio.gather(*(ask(name, file_id) for name in queries for file_id in disk.keys() | gone))
    return [answer for answer in answers if answer]


async def _modes(fleet: Fleet, operator: Operator) -> list[str]:
    problems = []
    for name in fleet.names:
        if kind_of(name) == "se":
            kept = json.loads((fleet.folder / name / "element.json").read_text())["mode"]
            if kept not in (operator.allowed_modes() if name == CLOSED else {"edit" if name in EDIT else "rw"}):
                problems.append(f"{name} is in mode {kept}")
    return problems


async def _audit(fleet: Fleet, clients: Sequence[Client], token: str) -> list[str]:
    """The chains are whole, and every delete that was acknowledged is in them."""
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {token}"}, timeout=60) as client:
        answer = await client.get(f"{fleet.url('admin-1')}/api/audit/verify")
    if answer.status_code != 200:
        return [f"audit cannot be verified: {answer.status_code} {answer.text[:300]}"]
    problems = [f"audit: {finding}" for finding in answer.json()["findings"]]
    written = {
        row["resource"] for row in await rows(fleet, "SELECT resource FROM audit_events WHERE action = 'file:delete'")
    }
    deleted = {file_id for one in clients for file_id in one.deleted}
    return problems + [f"nobody wrote of the delete of {file_id}" for file_id in deleted if file_id not in written]
