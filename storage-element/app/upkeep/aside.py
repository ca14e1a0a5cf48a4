"""Puts a damaged file aside: its bytes are kept for a person, readers are told, the catalog forgets it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from artstore.logs import get_logger

from ..store.store import Store
from .journal import Finding, Journal, Problem

log = get_logger("element.upkeep")

Action = Literal["quarantined", "removed", "kept", "would_remove"]


@dataclass(slots=True)
class Found:
    """Findings since the start, by problem: the metric. And where they are written down."""

    store: Store
    journal: Journal
    counts: dict[Problem, int] = field(default_factory=dict)

    async def note(self, task: str, file_id: str, problem: Problem, action: Action, detail: str = "") -> None:
        self.counts[problem] = self.counts.get(problem, 0) + 1
        now = self.store.now()
        finding = Finding(at=now, task=task, file_id=file_id, problem=problem, action=action, detail=detail)
        try:
            await asyncio.to_thread(self.journal.add, finding)
        except OSError as error:  # a full disk: the finding is counted and logged
            log.warning("finding not written down", file_id=file_id, problem=problem, error=str(error))


async def put_aside(store: Store, file_id: str, counted_bytes: int | None) -> Action:
    """The file's lock is held. `counted_bytes`: what it counts as in the usage; None: it does not.

    On a disk that has failed nothing is moved: it stays where it is.

    attr.json goes first: a crash after it leaves data that the sweep puts aside too.
    """
    if store.disk_health.failure is not None:
        return "kept"
    try:
        await store.in_thread(store.files.quarantine, file_id)
    except OSError as error:
        log.error("file not put aside", file_id=file_id, error=store.disk_health.explain(error).detail)
        return "kept"
    store.unconfirmed.pop(file_id, None)
    if counted_bytes is not None:
        store.usage.add(file_id, -1, -counted_bytes)
    return "quarantined"
