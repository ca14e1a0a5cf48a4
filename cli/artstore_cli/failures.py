"""Every error of a client command as what the user sees: message, hint, exit code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import CommandError, ExitCode, disk_error

if TYPE_CHECKING:
    from artstore_client import ArtStoreError

EXIT_OF_CODE = {
    "connection_failed": ExitCode.UNREACHABLE,
    "invalid_answer": ExitCode.UNREACHABLE,
    "content_damaged": ExitCode.DAMAGED,
    "digest_mismatch": ExitCode.DAMAGED,
    "checksum_mismatch": ExitCode.DAMAGED,
    "quarantined": ExitCode.DAMAGED,
    "file_damaged": ExitCode.DAMAGED,
    "content_changed": ExitCode.CONFLICT,
    "still_queued": ExitCode.UNAVAILABLE,
}
EXIT_OF_STATUS = {
    **dict.fromkeys((401, 403), ExitCode.DENIED),
    404: ExitCode.NOT_FOUND,
    **dict.fromkeys((409, 412, 423), ExitCode.CONFLICT),
    **dict.fromkeys((408, 429, 502, 503, 504, 507), ExitCode.UNAVAILABLE),
}
HINTS = {
    "connection_failed": "check the address, and whether the system runs",
    "invalid_answer": "the address must be that of the gateway, such as http://127.0.0.1:8080",
    "unauthenticated": "log in again with: artstore login URL",
    "forbidden": "use an account whose role has the permission",
    "mode_forbids": "only temporary files can be changed and deleted: put them with --temporary",
    "revision_mismatch": "somebody else changed the file at the same time; repeat the command",
    "idempotency_key_reused": "a file has changed since the interrupted put, but not its time; put all anew with --again",
    "rate_limited": "wait, or have an administrator raise rate_per_minute of the account",
    "too_many_uploads": "finish interrupted uploads by repeating their command; abandoned ones expire",
    "overloaded": "try again in a moment",
    "unavailable": "a part of the system is away; try again in a moment",
    "storage_full": "delete temporary files, or have an administrator add a storage element",
    "search_too_slow": "add a longer word, a tag, an owner or a range of time",
    "quarantined": "put the file again from its source; an administrator finds the damaged copy in the quarantine",
    "file_damaged": "put the file again from its source",
    "content_changed": "the file changed while it was transferred; repeat the command",
    "still_queued": "the change is stored and will be made; follow it with: artstore sagas show ID",
    "cursor_expired": "changes that old are no longer kept; begin without --since",
}
STOPS_ALL = {ExitCode.UNREACHABLE}
"""A failure of this kind would meet every other file of the command too; so would wrong credentials."""


@dataclass(frozen=True, slots=True)
class Failure:
    """`code`, `status` and `request_id` are those of docs/errors.md, when a service answered."""

    message: str
    exit_code: ExitCode
    code: str
    hint: str = ""
    status: int | None = None
    request_id: str | None = None
    retry_after_s: float | None = None
    path: str | None = None
    """The local path or the id that it is about, when a command works on several."""

    @property
    def stops_all(self) -> bool:
        return self.exit_code in STOPS_ALL or self.code == "unauthenticated"

    def about(self, path: str) -> Failure:
        return replace(self, path=path)

    def shown(self) -> dict[str, Any]:
        """For Output.error."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint or None,
            "exit_code": int(self.exit_code),
            "status": self.status,
            "request_id": self.request_id,
            "retry_after_s": self.retry_after_s,
            "path": self.path,
        }


def interruption(hint: str = "") -> dict[str, Any]:
    """Ctrl-C, for Output.error."""
    return Failure("interrupted", ExitCode.INTERRUPTED, "interrupted", hint).shown()


def describe(error: Exception) -> Failure:
    """Raises the error again when it is a defect of this program."""
    if isinstance(error, CommandError):
        return Failure(str(error), error.exit_code, error.code, error.hint)
    from artstore_client import ArtStoreError

    if isinstance(error, ArtStoreError):
        return _of_service(error)
    if isinstance(error, OSError):
        where = disk_error(error, Path(str(error.filename or "")))
        return Failure(str(where), ExitCode.FAILED, "file_error")
    if isinstance(error, UnicodeEncodeError):
        text = "an argument is not valid in the character set of this terminal"
        return Failure(text, ExitCode.USAGE, "usage", "set the locale to one of UTF-8, such as LC_ALL=C.UTF-8")
    if isinstance(error, ValueError):
        return Failure(str(error), ExitCode.USAGE, "usage")
    raise error


def _of_service(error: ArtStoreError) -> Failure:
    exit_code = EXIT_OF_CODE.get(error.code) or EXIT_OF_STATUS.get(error.status, ExitCode.FAILED)
    request = error.request_id or None
    hint = HINTS.get(error.code, "")
    if error.status >= 500 and request and not hint:
        hint = f"an administrator finds request {request} in the logs"
    return Failure(error.detail, exit_code, error.code, hint, error.status or None, request, error.retry_after)


def exit_code_of(failures: Sequence[Failure]) -> ExitCode:
    """The code that all failures agree on, else FAILED."""
    codes = {failure.exit_code for failure in failures}
    if not codes:
        return ExitCode.DONE
    return codes.pop() if len(codes) == 1 else ExitCode.FAILED
