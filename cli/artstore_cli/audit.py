"""`audit verify | archive | prune`. `verify` needs no service, database or network; the others talk to admin."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from artstore.audit.check import ADMIN_CHAIN, Checker, Finding
from artstore.audit.event import fingerprint, hash_of
from artstore.audit.seal import SEALS, check_seals

from .audit_archive import AdminClient, prune_sealed, write_archive
from .errors import CommandError

CREDENTIALS = Path(".artstore/keys/admin-client.json")

commands = typer.Typer(no_args_is_help=True, help="The audit log.", rich_markup_mode=None)


@commands.callback()
def _audit() -> None:
    """The audit log."""


@commands.command("verify")
def verify(
    files: Annotated[
        list[Path],
        typer.Argument(help="An answer of GET /api/audit?format=ndjson, after the archives before it, oldest first."),
    ],
    admin_key: Annotated[
        str | None, typer.Option(help="The required fingerprint of admin's key, as in the checkpoints that admin logs.")
    ] = None,
) -> None:
    """Verify exported audit logs offline. Exit code 1 when a change was found."""
    try:
        report = verify_files(files, admin_key)
    except CommandError as error:
        print(f"artstore: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    for one in report.findings:
        print(f"{one.what}: {one.chain} {one.seq}: {one.detail}")
    part = "" if report.whole else " of a part of the log, so that gaps are not checked"
    print(f"{report.events} events{part}, {len(report.chains)} chains, {report.checkpoints} checkpoints")
    if report.sealed:
        print(f"events before checkpoint {report.sealed} are in archives that were not given")
    print(f"admin's key: {report.admin_key}")
    print(f"{len(report.findings)} findings" if report.findings else "no change was found")
    raise typer.Exit(1 if report.findings else 0)


@dataclass(frozen=True, slots=True)
class ExportReport:
    """`admin_key`: fingerprint of the key that signs the checkpoints. Compare it with a copy from elsewhere."""

    events: int
    checkpoints: int
    chains: dict[str, str]
    whole: bool
    sealed: int
    """The checkpoint after which the first file begins; 0 for the beginning of the log."""
    findings: list[Finding]

    @property
    def admin_key(self) -> str:
        return self.chains.get(ADMIN_CHAIN, "")


def verify_files(paths: Sequence[Path], admin_key: str | None = None) -> ExportReport:
    """Check each file, and that each continues where the previous one ended.

    `admin_key`: the required fingerprint of admin's key. Raises CommandError for a file that is not an export.
    """
    report: ExportReport | None = None
    previous: _File | None = None
    for path in paths:
        try:
            read = _File(path)
            findings = read.check()
        except OSError as error:
            raise CommandError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CommandError(f"{path} is not an export of the audit log: {error!r}") from error
        if previous is not None:
            findings += read.follows(previous)
        elif admin_key is not None and read.chains.get(ADMIN_CHAIN) != admin_key:
            detail = f"its key is {read.chains.get(ADMIN_CHAIN)}, not {admin_key}"
            findings.append(Finding("wrong_key", ADMIN_CHAIN, 0, detail))
        before = report or ExportReport(0, 0, {}, True, read.began, [])
        report = ExportReport(
            before.events + read.checker.events,
            before.checkpoints + read.checker.checkpoints,
            {**before.chains, **read.chains},
            before.whole and read.whole,
            before.sealed,
            [*before.findings, *findings],
        )
        previous = read
    assert report is not None  # noqa: S101  (typer asks for one file at least)
    return report


class _File:
    """One export or archive, read line by line. Keys, seal and checkpoints come before the events."""

    def __init__(self, path: Path) -> None:
        self.path, self.whole = path, False
        self.seal: dict[str, Any] | None = None
        self.keys: dict[str, bytes] = {}
        self.checker = Checker({})
        self.digest = hashlib.sha256()

    @property
    def chains(self) -> dict[str, str]:
        return {chain: fingerprint(key) for chain, key in self.keys.items()}

    @property
    def began(self) -> int:
        return 0 if self.seal is None else int(self.seal["checkpoint"]["number"])

    def check(self) -> list[Finding]:
        begun = False
        until: int | None = None
        with self.path.open("rb") as file:
            for line in file:
                self.digest.update(line)
                value = orjson.loads(line)
                kind = value.get("type")
                if kind in ("export", "archive"):
                    self.whole, until = value["whole"] is True, value.get("until")
                elif kind == "key":
                    self.keys[value["chain"]] = base64.b64decode(value["public_key"], validate=True)
                elif kind == "seal":
                    self.seal = value
                else:
                    if not begun:
                        self._begin()
                        begun = True
                    (self.checker.add_checkpoint if kind == "checkpoint" else self.checker.add)(value)
        if not begun:
            self._begin()
        return self._check_seal() + self.checker.finish(known_number=until or 0)

    def _begin(self) -> None:
        self.checker = Checker(self.keys, self.whole, None if self.seal is None else self.seal["checkpoint"])

    def _check_seal(self) -> list[Finding]:
        if self.seal is None or ADMIN_CHAIN not in self.keys:
            return []
        key = Ed25519PublicKey.from_public_bytes(self.keys[ADMIN_CHAIN])
        return check_seals([self.seal], key, linked=False)[1]

    def follows(self, before: _File) -> list[Finding]:
        """Findings unless this file begins with the seal of the archive `before`."""
        if self.keys.get(ADMIN_CHAIN) != before.keys.get(ADMIN_CHAIN):
            return [Finding("wrong_key", ADMIN_CHAIN, 0, f"{self.path} and {before.path} are signed by different keys")]
        last = before.checker.last
        if self.seal is None or last is None or hash_of(self.seal["checkpoint"]) != hash_of(last):
            return [Finding("deleted", SEALS, 0, f"{self.path} does not continue where {before.path} ends")]
        if self.seal["archive"]["sha256"] != before.digest.hexdigest():
            return [Finding("changed", SEALS, self.seal["number"], f"{before.path} is not the file that was sealed")]
        return []


@commands.command("archive")
def archive(
    file: Annotated[Path, typer.Argument(help="The archive to write. An existing file is only sealed.")],
    before_days: Annotated[int, typer.Option(help="Archive events older than this many days.")] = 90,
    url: Annotated[str, typer.Option(help="Admin, or the gateway.")] = "http://127.0.0.1:8000",
    credentials: Annotated[Path, typer.Option(help="admin-client.json of an ADMIN.")] = CREDENTIALS,
) -> None:
    """Export the oldest part of the log and have admin verify and seal it. Deletes nothing; run it again after a failure."""
    _run(lambda: write_archive(AdminClient(url, credentials), file, before_days))


@commands.command("prune")
def prune(
    file: Annotated[Path, typer.Argument(help="The archive of the newest seal, which contains all that is deleted.")],
    url: Annotated[str, typer.Option(help="Admin, or the gateway.")] = "http://127.0.0.1:8000",
    credentials: Annotated[Path, typer.Option(help="admin-client.json of an ADMIN.")] = CREDENTIALS,
) -> None:
    """Delete from PostgreSQL the events below the newest seal, after checking that FILE is the archive of that seal."""
    _run(lambda: prune_sealed(AdminClient(url, credentials), file))


def _run(work: Callable[[], str]) -> None:
    try:
        print(work())
    except CommandError as error:
        print(f"artstore: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
        print(f"artstore: {error!r}; run the command again", file=sys.stderr)
        raise typer.Exit(1) from None
