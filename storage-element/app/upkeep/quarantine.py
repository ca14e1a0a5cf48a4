"""Move damaged files to quarantine: their bytes are kept for a person, readers get 410, the catalog loses the
row."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from artstore.logs import get_logger

from ..store.backends.base import Backend
from ..store.store import Store
from .journal import Finding, Journal, Problem

log = get_logger("element.upkeep")

Action = Literal["quarantined", "removed", "kept", "would_remove"]


@dataclass(slots=True)
class FindingLog:
    """Counts findings since the start by problem, for the metric, and writes each to the journal."""

    store: Store
    journal: Journal
    counts: dict[Problem, int] = field(default_factory=dict)

    async def record(self, task: str, file_id: str, problem: Problem, action: Action, detail: str = "") -> None:
        self.counts[problem] = self.counts.get(problem, 0) + 1
        now = self.store.now()
        finding = Finding(at=now, task=task, file_id=file_id, problem=problem, action=action, detail=detail)
        try:
            await asyncio.to_thread(self.journal.add, finding)
        except OSError as error:  # a full disk: the finding is counted and logged
            log.warning("finding not written", file_id=file_id, problem=problem, error=str(error))


async def quarantine_file(store: Store, file_id: str, counted_bytes: int | None) -> Action:
    """The caller holds the file's lock. `counted_bytes` is what the usage counts for the file; None: it is
    not counted.

    A failed disk is not changed: the file stays in place. attr.json is moved first, so a crash in between
    leaves data without attributes, which the orphan sweep quarantines too.
    """
    if store.disk_health.failure is not None:
        return "kept"
    try:
        store.findings.quarantined_files += await store.in_thread(_move, store.files, file_id)
    except OSError as error:
        log.error("file not quarantined", file_id=file_id, error=store.disk_health.explain(error).detail)
        return "kept"
    store.unconfirmed.pop(file_id, None)
    if counted_bytes is not None:
        store.usage.add(file_id, -1, -counted_bytes)
    return "quarantined"


async def count_quarantined(store: Store) -> None:
    """Count the files in the quarantine again. Raises Unavailable."""
    store.findings.quarantined_files = await store.scan_in_thread(store.files.count_quarantined)


def _move(files: Backend, file_id: str) -> int:
    """By how many files the quarantine has grown: 0 for one that it has already, or that does not exist."""
    known = files.is_quarantined(file_id)
    files.quarantine(file_id)
    return int(files.is_quarantined(file_id) and not known)
