"""A journal of the operations that were begun and answered, kept outside the store, to compare with after any fault."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from artstore.contracts.files import Attributes, decode, encode

from ..store.support import RememberingCatalog

State = tuple[str, int] | None
"""SHA-256 and revision; None for a file that is not there."""
ABSENT: State = None


def state_of(content: bytes, revision: int) -> State:
    return (hashlib.sha256(content).hexdigest(), revision)


class Notes(Protocol):
    def begun(self, file_id: str, state: State) -> None: ...

    def done(self, file_id: str, state: State) -> None: ...

    def refused(self, file_id: str, state: State) -> None: ...


class Journal:
    """Per file: the state answered last, and those that are being made. Each line is with the kernel when `note` returns."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def begun(self, file_id: str, state: State) -> None:
        self._note("begun", file_id, state)

    def done(self, file_id: str, state: State) -> None:
        self._note("done", file_id, state)

    def refused(self, file_id: str, state: State) -> None:
        """Answered with an error by an element that goes on: nothing of it may be left."""
        self._note("refused", file_id, state)

    def confirmed(self, file_id: str) -> None:
        """No recovery may hold the file for unconfirmed."""
        self._note("confirmed", file_id, None)

    def close(self) -> None:
        self._file.close()

    def _note(self, what: str, file_id: str, state: State) -> None:
        self._file.write(msgspec.json.encode([time.monotonic_ns(), what, file_id, state]) + b"\n")


def allowed_states(path: Path, until_ns: int | None = None) -> dict[str, list[State]]:
    """How each file may be found now, or if the power had been cut at `until_ns` (monotonic)."""
    allowed: dict[str, list[State]] = {}
    for line in path.read_bytes().splitlines() if path.exists() else []:
        at_ns, what, file_id, state = msgspec.json.decode(line, type=tuple[int, str, str, State])
        if until_ns is not None and at_ns > until_ns:
            break
        states = allowed.setdefault(file_id, [ABSENT])
        if what == "begun":
            states.append(state)
        elif what == "done":
            allowed[file_id] = [state]
        elif what == "refused":
            states.remove(state)
    return allowed


def confirmed_files(path: Path, until_ns: int) -> set[str]:
    lines = (msgspec.json.decode(line, type=tuple[int, str, str, State]) for line in path.read_bytes().splitlines())
    return {file_id for at_ns, what, file_id, _ in lines if what == "confirmed" and at_ns <= until_ns}


def histories(path: Path) -> dict[str, list[State]]:
    """Per file every state that was acknowledged, in order, the first of them absent."""
    found: dict[str, list[State]] = {}
    for line in path.read_bytes().splitlines() if path.exists() else []:
        _, what, file_id, state = msgspec.json.decode(line, type=tuple[int, str, str, State])
        if what == "done":
            found.setdefault(file_id, [ABSENT]).append(state)
    return found


def refused_in(path: Path) -> dict[str, State]:
    """Per file the state that was answered with an error, and undone."""
    lines = (msgspec.json.decode(line, type=tuple[int, str, str, State]) for line in path.read_bytes().splitlines())
    return {file_id: state for _, what, file_id, state in lines if what == "refused"}


def missing_records(path: Path, recorded: Path, revisions: Mapping[str, int], *, deletes: bool) -> set[str]:
    """The changes that were made and that the audit log did not get: each revision after the first, and each file that is
    gone after it was there. `deletes`: files are removed by deletes only."""
    got = set(recorded.read_text().splitlines()) if recorded.exists() else set()
    updates = {f"update {file_id} {nth}" for file_id, last in revisions.items() for nth in range(2, last + 1)}
    deleted = {line.split()[1] for line in got if line.startswith("delete")}
    gone = histories(path).keys() - revisions.keys() - deleted if deletes else set()
    return (updates - got) | {f"delete {file_id}" for file_id in gone}


class KeptCatalog(RememberingCatalog):
    """Rows that outlive the process, as PostgreSQL's do. `fails_after` makes the next note take effect and then fail."""

    def __init__(self, path: Path, until_ns: int | None = None) -> None:
        super().__init__()
        self.fails_after = False
        for line in path.read_bytes().splitlines() if path.exists() else []:
            at_ns, file_id, encoded, saga_id = msgspec.json.decode(line, type=tuple[int, str, str | None, str | None])
            if until_ns is not None and at_ns > until_ns:
                break
            if encoded is None:
                self.rows.pop(file_id, None)
            else:
                self.rows[file_id] = (decode(encoded.encode()), saga_id)
        kept_in = path if until_ns is None else Path(os.devnull)
        self._file = kept_in.open("ab", buffering=0)

    async def note(self, attributes: Attributes, *, saga_id: str | None, change: str) -> None:
        await super().note(attributes, saga_id=saga_id, change=change)
        kept, kept_saga = self.rows[attributes.file_id]
        self._keep(attributes.file_id, encode(kept).decode(), kept_saga)
        if self.fails_after:
            self.away = True
            self._require_here()

    async def forget(self, file_id: str, *, revision: int) -> None:
        await super().forget(file_id, revision=revision)
        self._keep(file_id, None, None)

    def revisions(self) -> dict[str, int]:
        return {file_id: attributes.revision for file_id, (attributes, _) in self.rows.items()}

    def close(self) -> None:
        self._file.close()

    def _keep(self, file_id: str, encoded: str | None, saga_id: str | None) -> None:
        self._file.write(msgspec.json.encode([time.monotonic_ns(), file_id, encoded, saga_id]) + b"\n")
