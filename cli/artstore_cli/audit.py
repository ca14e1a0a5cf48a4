"""Checks exported audit logs offline: needs no service, database or network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from artstore.audit.check import ADMIN_CHAIN, Checker, Finding
from artstore.audit.event import fingerprint, hash_of
from artstore.audit.seal import SEALS, check_seals

from .errors import CommandError


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
