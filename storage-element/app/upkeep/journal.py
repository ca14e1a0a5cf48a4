"""The journal of upkeep: progress and findings as files under <root>/upkeep/, from which a restart resumes.

`<task>.json` is the state of the last run and is replaced as a whole; `findings.jsonl` gets one line for each
finding. Findings are not kept in attr.json: a file's attributes do not describe the health of its disk.
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
"""A failing disk must not be filled with lines about each file: beyond this size, findings are only
counted."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One problem of one file."""

    at: str
    task: str
    file_id: str
    problem: Problem
    action: Literal["quarantined", "removed", "kept", "would_remove"]
    detail: str = ""


State = TypeVar("State", bound=msgspec.Struct)


class Journal:
    """All methods block: call them in a thread."""

    def __init__(self, paths: Paths) -> None:
        self._folder = paths.upkeep

    def find(self, task: str, kind: type[State]) -> State | None:
        """The state of the last run. None also when it cannot be decoded: the task starts from the
        beginning."""
        try:
            with open(f"{self._folder}/{task}.json", "rb") as file:
                return msgspec.json.decode(file.read(), type=kind)
        except FileNotFoundError:
            return None
        except (msgspec.MsgspecError, OSError) as error:
            log.warning("upkeep state unreadable, starting from the beginning", task=task, error=str(error))
            return None

    def save(self, task: str, state: msgspec.Struct) -> None:
        durable.replace_file(f"{self._folder}/{task}.json", msgspec.json.encode(state) + b"\n")

    def add(self, finding: Finding) -> None:
        """Append a line. A crash may lose the last one: the next run finds the same problem again."""
        log.warning(
            "finding", task=finding.task, file_id=finding.file_id, problem=finding.problem, action=finding.action
        )
        fd = os.open(f"{self._folder}/findings.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            if os.fstat(fd).st_size < MAX_FINDINGS_BYTES:
                durable.write_all(fd, [msgspec.json.encode(finding) + b"\n"])
        finally:
            os.close(fd)
