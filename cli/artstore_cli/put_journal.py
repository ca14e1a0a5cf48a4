"""Records what a `put` has stored so far, so that the same command continues after an interruption instead of storing twice.

One file for each command (address, account, sources, attributes) in the user's state folder: first a random text, then a
line of JSON for each stored file, appended after its answer. It is removed when all is stored. After a kill between the
answer and its line the next run sends the same request under the same Idempotency-Key, made of the random text and the
request's files, and gets the first answer. Beside it are the state files of resumable uploads.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from .connection import user_folder
from .errors import CommandError, ExitCode, disk_error

KEPT_S = 7 * 86400
"""Older journals are not continued: their user has forgotten them."""


@dataclass
class PutJournal:
    """Use as a context manager. Raises CommandError when the same command is running."""

    path: Path
    stored: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By local path: size, mtime_ns and the record of what was stored."""
    _file: BinaryIO | None = None
    _random: str = ""

    @classmethod
    def of(cls, command: Sequence[Any]) -> Self:
        """The journal of the command that these values describe."""
        folder = user_folder("XDG_STATE_HOME", ".local/state") / "puts"
        return cls(folder / f"{hashlib.sha256(json.dumps(command).encode()).hexdigest()[:32]}.jsonl")

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._remove_old()
            self._file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b", buffering=0)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(
                "the same command is already running", code="in_use", exit_code=ExitCode.CONFLICT
            ) from None
        except OSError as error:
            raise disk_error(error, self.path) from None
        self._load()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is None:
            return
        self._file.close()

    def remove(self) -> None:
        """All is stored."""
        self.path.unlink(missing_ok=True)
        self._remove_states()

    def begin_anew(self) -> None:
        """All is to be stored again."""
        assert self._file is not None  # noqa: S101
        self._file.truncate(0)
        self._remove_states()
        self._load()

    def _remove_states(self) -> None:
        for state in self.path.parent.glob(f"{self.path.stem}.*.upload"):
            state.unlink(missing_ok=True)

    def find(self, path: str, size: int, mtime_ns: int) -> dict[str, Any] | None:
        """The record of this file if it was stored as it is now."""
        kept = self.stored.get(path)
        return kept["file"] if kept and (kept["size"], kept["mtime_ns"]) == (size, mtime_ns) else None

    def add(self, stored: Sequence[tuple[str, int, int, Mapping[str, Any]]]) -> None:
        """Path, size, mtime_ns and record of all files of one request, in one write: a kill leaves all or none.
        A full disk does not stop a put: the files are stored, only not remembered."""
        names = ("path", "size", "mtime_ns", "file")
        lines = "".join(json.dumps(dict(zip(names, one, strict=True))) + "\n" for one in stored)
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.write(lines.encode())

    def key(self, request: Sequence[Any]) -> str:
        """The Idempotency-Key of a request that these values describe: the same in each run of the command."""
        return hashlib.sha256(json.dumps([self._random, request]).encode()).hexdigest()

    def state_file(self, path: str) -> Path:
        """For the resumable upload of this file."""
        return self.path.with_name(f"{self.path.stem}.{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.upload")

    def _load(self) -> None:
        assert self._file is not None  # noqa: S101
        self.stored, self._random = {}, ""
        self._file.seek(0)
        text = self._file.read()
        for line in text.splitlines():
            try:
                one = json.loads(line)
                if "random" in one:
                    self._random = str(one["random"])
                else:
                    self.stored[one["path"]] = {name: one[name] for name in ("size", "mtime_ns", "file")}
            except (ValueError, KeyError, TypeError):
                continue  # a line that was not written to its end
        begin = b"" if not text or text.endswith(b"\n") else b"\n"
        if not self._random:
            self._random = secrets.token_hex(16)
            begin += json.dumps({"random": self._random}).encode() + b"\n"
        self._file.write(begin)

    def _remove_old(self) -> None:
        until = time.time() - KEPT_S
        for old in self.path.parent.iterdir():
            if old.lstat().st_mtime < until:
                old.unlink(missing_ok=True)
