"""`audit verify FILE`: checks an exported audit log without any service, database or network."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from artstore.audit.check import ADMIN_CHAIN, Checker, Finding
from artstore.audit.event import fingerprint

from .refusal import Refused

commands = typer.Typer(no_args_is_help=True, help="The audit log.", rich_markup_mode=None)


@commands.callback()
def _audit() -> None:
    """The audit log."""


@commands.command("verify")
def verify(
    file: Annotated[Path, typer.Argument(help="What GET /api/audit?format=ndjson answered.")],
    admin_key: Annotated[
        str | None, typer.Option(help="The fingerprint admin's key must have, as the checkpoints in its log say.")
    ] = None,
) -> None:
    """Check an exported audit log, offline; exit code 1 when something was done to it."""
    try:
        verdict = verify_file(file, admin_key)
    except Refused as error:
        print(f"artstore: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    for one in verdict.findings:
        print(f"{one.what}: {one.chain} {one.seq}: {one.detail}")
    part = "" if verdict.whole else " of a part of the log, so that gaps and ends say nothing"
    print(f"{verdict.events} events{part}, {len(verdict.chains)} chains, {verdict.checkpoints} checkpoints")
    print(f"admin's key: {verdict.admin_key}")
    print(f"{len(verdict.findings)} findings" if verdict.findings else "nothing was changed")
    raise typer.Exit(1 if verdict.findings else 0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`admin_key`: fingerprint of the key that signs the checkpoints; who knows it from elsewhere knows the export is ours."""

    events: int
    checkpoints: int
    chains: dict[str, str]
    whole: bool
    findings: list[Finding]

    @property
    def admin_key(self) -> str:
        return self.chains.get(ADMIN_CHAIN, "")


def verify_file(path: Path, admin_key: str | None = None) -> Verdict:
    """Raises Refused for a file that is no export. `admin_key`: the fingerprint that admin's key must have."""
    try:
        with path.open("rb") as file:
            return _verify(file, admin_key)
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f"{path} is no export of the audit log: {error!r}") from error


def _verify(lines: Iterable[bytes], admin_key: str | None) -> Verdict:
    keys: dict[str, bytes] = {}
    checkpoints: list[dict[str, Any]] = []
    checker: Checker | None = None
    whole = False
    for line in lines:
        value = orjson.loads(line)
        kind = value.get("type")
        if kind == "export":
            whole = value["whole"] is True
        elif kind == "key":
            keys[value["chain"]] = base64.b64decode(value["public_key"], validate=True)
        elif kind == "checkpoint":
            checkpoints.append(value)
        else:
            if checker is None:
                checker = Checker(keys, checkpoints, whole)
            checker.add(value)
    checker = checker or Checker(keys, checkpoints, whole)
    findings = checker.finish()
    chains = {chain: fingerprint(key) for chain, key in keys.items()}
    if admin_key is not None and chains.get(ADMIN_CHAIN) != admin_key:
        findings.append(Finding("wrong_key", ADMIN_CHAIN, 0, f"its key is {chains.get(ADMIN_CHAIN)}, not {admin_key}"))
    return Verdict(checker.events, len(checkpoints), chains, whole, findings)
