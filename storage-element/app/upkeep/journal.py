"""What upkeep has done so far and what it found, as files under <root>/upkeep/: a restart goes on from there.

`<task>.json` is the state of the last run, replaced whole; `findings.jsonl` grows by one line for each thing found. Never in
attr.json: a file's attributes say nothing of how well its disk is.
"""

from __future__ import annotations

import os
from typing import Literal, TypeVar

import msgspec

from artstore.logs import get_logger

from ..store import durable
from ..store.paths import Paths

log = get_logger("element.upkeep")

Problem = Literal[
    "attributes_damaged",
    "data_missing",
    "size_differs",
    "hash_differs",
    "attributes_missing",
    "unreadable",
    "foreign",
    "refused",
]

MAX_FINDINGS_BYTES = 64 << 20
"""A disk that fails in every file must not be filled with lines about it: beyond this only metrics count."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing found wrong with one file."""

    at: str
    task: str
    file_id: str
    problem: Problem
    action: Literal["quarantined", "removed", "kept", "would_remove"]
    detail: str = ""


State = TypeVar("State", bound=msgspec.Struct)


class Journal:
    """Blocks: called from threads."""

    def __init__(self, paths: Paths) -> None:
        self._folder = paths.upkeep

    def find(self, task: str, kind: type[State]) -> State | None:
        """The last run's state. One that cannot be read is as good as none: the task begins anew."""
        try:
            with open(f"{self._folder}/{task}.json", "rb") as file:
                return msgspec.json.decode(file.read(), type=kind)
        except FileNotFoundError:
            return None
        except (msgspec.MsgspecError, OSError) as error:
            log.warning("upkeep state unreadable, beginning anew", task=task, error=str(error))
            return None

    def keep(self, task: str, state: msgspec.Struct) -> None:
        durable.replace_file(f"{self._folder}/{task}.json", msgspec.json.encode(state) + b"\n")

    def add(self, finding: Finding) -> None:
        """A line at the end. A crash may cost the last one: the next run finds the same again."""
        log.warning(
            "finding", task=finding.task, file_id=finding.file_id, problem=finding.problem, action=finding.action
        )
        fd = os.open(f"{self._folder}/findings.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            if os.fstat(fd).st_size < MAX_FINDINGS_BYTES:
                durable.write_all(fd, [msgspec.json.encode(finding) + b"\n"])
        finally:
            os.close(fd)
